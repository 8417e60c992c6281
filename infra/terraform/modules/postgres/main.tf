# Terraform owns what exists before the first migration: database, owner, login roles, passwords, the right to connect and to use the
# schema. Tables, indexes and every grant on a table are Alembic's (infra/migrations).

locals {
  logins = setunion(var.roles, var.create_database ? [var.owner] : [])
}

resource "random_password" "login" {
  for_each = var.laptop_passwords ? [] : local.logins

  length  = 32
  special = false # it stands in a URL
}

locals {
  passwords = {
    for role in local.logins : role => lookup(var.passwords, role, var.laptop_passwords ? "${role}_password" : try(random_password.login[role].result, ""))
  }
}

resource "postgresql_role" "owner" {
  count = var.create_database ? 1 : 0

  name     = var.owner
  login    = true
  password = local.passwords[var.owner]
}

# Only an owner's grants on a database count, and of others PostgreSQL passes them over with a warning; so whoever applies this is one.
resource "postgresql_grant_role" "owner" {
  count = var.create_database && var.administrator != null ? 1 : 0

  role       = var.administrator
  grant_role = postgresql_role.owner[0].name

  lifecycle {
    ignore_changes = [with_admin_option] # since PostgreSQL 16 who makes a role has it, and the provider takes that for this grant's
  }
}

resource "postgresql_database" "this" {
  count = var.create_database ? 1 : 0

  name  = var.database
  owner = postgresql_role.owner[0].name

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [postgresql_grant_role.owner]
}

# What every role may, granted once: grants on one schema at the same time would get in each other's way.
resource "postgresql_role" "member" {
  name = "orderflow"
}

resource "postgresql_role" "all" {
  for_each = var.roles

  name     = each.key
  login    = true
  password = local.passwords[each.key]
  roles    = [postgresql_role.member.name]
}

locals {
  database = var.create_database ? postgresql_database.this[0].name : var.database
}

# After the roles: the provider locks a role with its members, and two such locks at once can meet head-on.
resource "postgresql_grant" "connect" {
  database    = local.database
  role        = postgresql_role.member.name
  object_type = "database"
  privileges  = ["CONNECT"]

  depends_on = [postgresql_role.all]
}

resource "postgresql_grant" "use" {
  database    = local.database
  role        = postgresql_role.member.name
  schema      = "public"
  object_type = "schema"
  privileges  = ["USAGE"]

  depends_on = [postgresql_role.all, postgresql_grant.nobody_uses]
}

# Everybody else of the server: no connection, no temporary tables, no look into the schema, and before PostgreSQL 15 no tables in it.
resource "postgresql_grant" "nobody_connects" {
  database    = local.database
  role        = "public"
  object_type = "database"
  privileges  = []
}

resource "postgresql_grant" "nobody_uses" {
  database    = local.database
  role        = "public"
  schema      = "public"
  object_type = "schema"
  privileges  = []
}
