variable "roles" {
  description = "Who logs in."
  type        = set(string)
}

variable "database" {
  description = "Name of the database."
  type        = string
}

variable "owner" {
  description = "The role that owns the database and, by its migrations, every table."
  type        = string
}

variable "create_database" {
  description = "Whether to make the database and its owner; else both are there."
  type        = bool
}

variable "administrator" {
  description = "Who applies this, where it is no superuser; else null."
  type        = string
}

variable "passwords" {
  description = "Passwords by role; the rest is generated."
  type        = map(string)
  sensitive   = true
}

variable "laptop_passwords" {
  description = "Whether the rest is <role>_password instead."
  type        = bool
}

variable "address" {
  description = "host:port as the functions reach the server."
  type        = string
}

variable "dsn_options" {
  description = "What follows the question mark of a DSN."
  type        = string
}
