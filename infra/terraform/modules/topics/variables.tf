variable "contract" {
  description = "Path of contracts/topics.yaml."
  type        = string
}

variable "names" {
  description = "{ SETTING = \"name\" }: topics and groups that are named otherwise."
  type        = map(string)
}

variable "replicas_max" {
  description = "At most so many replicas; null for what is declared."
  type        = number
}

variable "acls" {
  description = "Whether to make ACLs."
  type        = bool
}

variable "user_passwords" {
  description = "{ user = password } of the SCRAM-SHA-512 users to make."
  type        = map(string)
  sensitive   = true

  validation {
    condition     = length(setsubtract(keys(var.user_passwords), keys(local.rights))) == 0
    error_message = "kafka_user_passwords: the users are ${join(", ", keys(local.rights))}, and no others."
  }
}
