output "topics" {
  description = "Every topic with its partitions and replicas."
  value       = { for topic in kafka_topic.all : topic.name => { partitions = topic.partitions, replicas = topic.replication_factor } }
}

output "names" {
  description = "{ name in the contract = name at the broker }"
  value       = { for name, topic in local.topics : name => topic.name }
}
