variable "topics" {
  description = "{ name in the contract = name, partitions, replication_factor, config }"
  type = map(object({
    name               = string
    partitions         = number
    replication_factor = number
    config             = map(string)
  }))
}

variable "acls" {
  description = "What each user may."
  type = list(object({
    user      = string
    operation = string
    type      = string
    name      = string
    pattern   = string
  }))
}

variable "users" {
  description = "The users that there can be."
  type        = list(string)
}

variable "user_passwords" {
  description = "{ user = password } of the SCRAM-SHA-512 users to make."
  type        = map(string)
  sensitive   = true

  validation {
    condition     = length(setsubtract(keys(var.user_passwords), var.users)) == 0
    error_message = "kafka_user_passwords: the users are ${join(", ", var.users)}, and no others."
  }
}
