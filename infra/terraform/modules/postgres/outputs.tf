output "dsns" {
  description = "{ secret = DSN }"
  value = {
    for role in local.logins :
    role == var.owner ? "orderflow-owner-dsn" : "${replace(role, "_", "-")}-dsn" =>
    "postgresql://${role}:${urlencode(local.passwords[role])}@${var.address}/${var.database}?${var.dsn_options}"
  }
  sensitive = true
}
