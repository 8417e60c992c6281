# What exists before the first migration and the first event: topics, who may use them, the database and who may log in.
# Everything is read from contracts/; the variable files in environments/ say only where, and how many replicas.

# One state describes one environment. The variables of another would replace this, which the plan refuses.
resource "terraform_data" "environment" {
  triggers_replace = var.environment

  lifecycle {
    prevent_destroy = true
  }
}

# What is null here would be taken from the environment, where KAFKA_SASL_MECHANISM and others are spelled for another client.
provider "kafka" {
  bootstrap_servers = var.kafka.brokers
  tls_enabled       = var.kafka.tls
  ca_cert           = var.kafka.ca_cert_file
  client_cert       = ""
  client_key        = ""
  sasl_mechanism    = var.kafka.sasl_mechanism
  sasl_username     = var.kafka.username
  sasl_password     = var.kafka_password
  timeout           = 30
}

provider "postgresql" {
  host            = var.postgres.host
  port            = var.postgres.port
  database        = var.postgres.create_database ? var.postgres.maintenance_database : var.postgres.database
  username        = var.postgres.username
  password        = var.postgres_password
  superuser       = var.postgres.superuser
  sslmode         = var.postgres.sslmode
  sslrootcert     = var.postgres.ca_cert_file
  connect_timeout = 10
}

module "contract" {
  source = "./modules/contract"

  folder  = "${path.root}/../../contracts"
  names   = var.kafka_names
  brokers = var.kafka_brokers_count
}

module "topics" {
  source = "./modules/topics"

  topics         = module.contract.topics
  acls           = var.kafka_acls ? module.contract.acls : []
  users          = module.contract.users
  user_passwords = var.kafka_user_passwords
}

module "postgres" {
  source = "./modules/postgres"

  roles            = module.contract.roles
  database         = var.postgres.database
  owner            = var.postgres.owner
  create_database  = var.postgres.create_database
  administrator    = var.postgres.superuser ? null : var.postgres.username
  passwords        = var.role_passwords
  laptop_passwords = var.laptop_passwords
  address          = coalesce(var.postgres.address, "${var.postgres.host}:${var.postgres.port}")
  dsn_options      = join("&", compact(["sslmode=${var.postgres.sslmode}", try("sslrootcert=${var.postgres.functions_ca_file}", "")]))
}

# What is there already is taken over as it is, not made again. A name that the state knows is passed over.
import {
  for_each = var.adopt.topics
  to       = module.topics.kafka_topic.all[each.value]
  id       = module.contract.topics[each.value].name
}

import {
  for_each = setsubtract(var.adopt.roles, ["orderflow"])
  to       = module.postgres.postgresql_role.all[each.value]
  id       = each.value
}

import {
  for_each = setintersection(var.adopt.roles, ["orderflow"])
  to       = module.postgres.postgresql_role.member
  id       = each.value
}
