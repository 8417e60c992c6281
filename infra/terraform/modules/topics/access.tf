resource "kafka_acl" "all" {
  for_each = { for acl in var.acls : "${acl.user} ${acl.operation} ${acl.type} ${acl.name}" => acl }

  acl_principal                = "User:${each.value.user}"
  acl_host                     = "*"
  acl_operation                = each.value.operation
  acl_permission_type          = "Allow"
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
}

# A password has to be known when the plan is made (the provider breaks down otherwise), so none is generated here.
resource "kafka_user_scram_credential" "all" {
  for_each = nonsensitive(toset(keys(var.user_passwords)))

  username         = each.key
  scram_mechanism  = "SCRAM-SHA-512"
  scram_iterations = 8192
  password         = var.user_passwords[each.key]
}
