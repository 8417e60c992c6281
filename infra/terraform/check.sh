#!/usr/bin/env bash
# Format, always; then, where terraform can get its providers, whether the files are valid and plan from nothing in each environment.
# Nothing is left behind and no server is asked: a plan from nothing reads no topic and no role.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1

loud() { printf '\n!!! terraform-check: %s !!!\n\n' "$1" >&2; }

if ! command -v terraform >/dev/null; then
  loud "terraform is not installed, so NOTHING of infra/terraform was checked but what pytest reads"
  exit 0
fi
terraform fmt -check -recursive -diff infra/terraform

aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT
mkdir "$aside/infra"
cp -r contracts "$aside"
cp -r infra/terraform "$aside/infra"
cd "$aside/infra/terraform"
rm -rf .terraform .terraform.lock.hcl ./*_override.tf ./*.tfstate*

if ! timeout 120 terraform init -no-color -input=false >init.log 2>&1; then
  loud "the providers cannot be had (TF_CLI_CONFIG_FILE names no mirror that works, and there is no registry), so only the format was checked"
  exit 0
fi
terraform validate
export TF_VAR_postgres_password=none TF_VAR_kafka_password=none
for environment in environments/*.tfvars; do
  echo "$environment: $(terraform plan -no-color -input=false -var-file="$environment" | grep '^Plan:')"
done
