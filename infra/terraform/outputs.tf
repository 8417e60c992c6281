output "topics" {
  description = "Every topic with its partitions and replicas."
  value       = module.topics.topics
}

output "roles" {
  description = "The login roles."
  value       = module.contract.roles
}

# What the functions' secrets are made from (docs/terraform.md).
output "dsns" {
  description = "{ secret = DSN }: orderflow-orders-dsn, …, and orderflow-owner-dsn for `orderflow migrate` where the owner is made here."
  value       = module.postgres.dsns
  sensitive   = true
}
