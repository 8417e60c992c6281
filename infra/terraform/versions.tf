terraform {
  required_version = ">= 1.9"

  # Of a laptop. A file backend_override.tf, which git ignores, names the one of production: its state holds passwords.
  backend "local" {}

  required_providers {
    kafka = {
      source  = "Mongey/kafka"
      version = "~> 0.13"
    }
    postgresql = {
      source  = "cyrilgdn/postgresql"
      version = "~> 1.26"
    }
  }
}
