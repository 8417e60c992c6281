# The servers of `make run`, or of docker-compose: one broker, no authorizer, the passwords of a laptop. They make the database and its
# owner themselves, so Terraform works as that owner. `make terraform-apply` uses this file.
environment = "local"

kafka = {
  brokers = ["localhost:19092"]
  tls     = false
}

kafka_brokers_count = 1

postgres = {
  host            = "localhost"
  port            = 15432
  username        = "order_user"
  superuser       = false
  sslmode         = "disable"
  create_database = false
}

postgres_password = "order_password"

laptop_passwords = true
