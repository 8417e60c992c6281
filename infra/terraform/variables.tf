variable "environment" {
  description = "Whose state this is: a state takes the variables of one environment only."
  type        = string
}

variable "kafka" {
  description = "Where Kafka is, and as whom its topics are made. A mechanism is scram-sha512, scram-sha256, plain or aws-iam."
  type = object({
    brokers        = list(string)
    tls            = optional(bool, true)
    ca_cert_file   = optional(string, "")
    sasl_mechanism = optional(string, "plain")
    username       = optional(string, "")
  })
}

variable "kafka_password" {
  description = "Of kafka.username. Give it as TF_VAR_kafka_password."
  type        = string
  default     = ""
  sensitive   = true
}

variable "kafka_brokers_count" {
  description = "How many brokers there are: no topic gets more replicas, whatever contracts/topics.yaml declares."
  type        = number
}

variable "kafka_acls" {
  description = "Whether the brokers have an authorizer, and each process is given what it needs."
  type        = bool
  default     = false
}

variable "kafka_user_passwords" {
  description = "{ user = password } of the SCRAM-SHA-512 users to make: orderflow-source, orderflow-relay, orderflow-dlq-router, orderflow-command. A user that is not named comes from somewhere else. Give it as TF_VAR_kafka_user_passwords."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "kafka_names" {
  description = "Topics and groups that the processes know by other names than contracts/topics.yaml's: { SETTING = \"name\" }, as in their environment."
  type        = map(string)
  default     = {}
}

variable "postgres" {
  description = "Where PostgreSQL is, and as whom the roles are made. `address` is host:port as the functions reach it, where that is another; `functions_ca_file` is where they find the certificate that they trust, where it is not a public one's."
  type = object({
    host                 = string
    port                 = optional(number, 5432)
    username             = optional(string, "postgres")
    superuser            = optional(bool, true)
    sslmode              = optional(string, "require")
    ca_cert_file         = optional(string, "")
    database             = optional(string, "orders")
    owner                = optional(string, "order_user")
    create_database      = optional(bool, true)
    maintenance_database = optional(string, "postgres")
    address              = optional(string)
    functions_ca_file    = optional(string)
  })

  validation {
    condition     = contains(["disable", "require", "verify-ca", "verify-full"], var.postgres.sslmode)
    error_message = "postgres.sslmode must be disable, require, verify-ca or verify-full: the functions know no other."
  }
}

variable "postgres_password" {
  description = "Of postgres.username. Give it as TF_VAR_postgres_password."
  type        = string
  sensitive   = true
}

variable "role_passwords" {
  description = "Passwords by role (orderflow_orders, …, and the owner). One that is not given is generated."
  type        = map(string)
  default     = {}
  sensitive   = true
}

variable "laptop_passwords" {
  description = "Whether a role's password is <role>_password, as `orderflow up` has it. For a laptop only."
  type        = bool
  default     = false
}

variable "adopt" {
  description = "Topics and roles that are there already and that Terraform is to take over, by their names in contracts/."
  type = object({
    topics = optional(set(string), [])
    roles  = optional(set(string), [])
  })
  default = {}
}
