variable "folder" {
  description = "Path of contracts/."
  type        = string
}

variable "names" {
  description = "{ SETTING = \"name\" }: topics and groups that are named otherwise."
  type        = map(string)
  default     = {}
}

variable "brokers" {
  description = "How many there are."
  type        = number
}
