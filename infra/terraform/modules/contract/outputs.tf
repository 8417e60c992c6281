output "topics" {
  description = "{ name in the contract = the topic as it is to be }"
  value       = local.topics
}

output "users" {
  description = "Who speaks to Kafka."
  value       = keys(local.rights)
}

output "acls" {
  description = "What each may: user, operation, type, name, pattern."
  value       = local.acls
}

output "roles" {
  description = "Who logs in to PostgreSQL."
  value       = local.roles
}
