# Three brokers with TLS, SCRAM and an authorizer; a PostgreSQL with TLS. Set the addresses. Passwords come as TF_VAR_kafka_password,
# TF_VAR_kafka_user_passwords and TF_VAR_postgres_password: none belongs into a file of the checkout.
environment = "prod"

kafka = {
  brokers        = ["kafka-0.kafka:9093", "kafka-1.kafka:9093", "kafka-2.kafka:9093"]
  sasl_mechanism = "scram-sha512"
  username       = "terraform"
}

kafka_brokers_count = 3
kafka_acls          = true

postgres = {
  host      = "postgres"
  username  = "postgres"
  superuser = false
  sslmode   = "verify-full"
}
