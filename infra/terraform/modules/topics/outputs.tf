output "topics" {
  description = "Every topic with its partitions and replicas."
  value       = { for topic in kafka_topic.all : topic.name => { partitions = topic.partitions, replicas = topic.replication_factor } }
}
