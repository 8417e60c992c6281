# `make help` is the index: it prints each target with the text after its ##.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

# The first that runs and is new enough; the lock is made for 3.11.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python3.14; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
BIN := .venv/bin
ORDERFLOW := $(BIN)/orderflow
# The environment is rebuilt when what it was made from is no longer the same, whatever the clock says of the files.
STAMP := .venv/made-from-$(shell cat requirements.lock pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)
BENCH_STAMP := .venv-bench/made-from-$(shell cat requirements-bench.lock pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)
BENCH := .venv-bench/bin/python -m bench
AUDIT_STAMP := .venv-audit/made-from-$(shell cat requirements-audit.lock 2>/dev/null | sha256sum | cut -c1-16)
FROM ?= beginning
# Tests mostly wait for servers, so two at a time take half as long; each worker has a broker and a database of its own.
# Files in the order of their folders: the largest would otherwise go first, and the long ones of few tests last and alone.
WORKERS ?= 2

# Topics under the names that the environment gives them, as for every other part.
PAYMENT := $(or $(KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC),order.payment.completed)
ASSEMBLY := $(or $(KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC),order.assembly.completed)
NOTIFICATION_DLQ := $(or $(KAFKA_NOTIFICATION_DLQ_TOPIC),order.notification.dlq)
PLAYGROUND := $(or $(KAFKA_TOPIC),test-topic)

##@ The whole system

.PHONY: demo
demo: $(STAMP) ## from nothing: 5 orders go paid, assembled, notified; one poison record becomes a letter; then a summary
	@$(need_java_for_our_broker)
	@$(ORDERFLOW) demo

.PHONY: demo-dead-letters
demo-dead-letters: $(STAMP) ## break a customer's notifications and send a wrong event; find the causes, edit, replay, and count
	@$(need_java_for_our_broker)
	@$(ORDERFLOW) demo-dead-letters

.PHONY: run
run: $(STAMP) ## everything, until Ctrl-C: broker, database, topics, migrations, functions, sources, relay
	@$(need_java_for_our_broker)
	@exec $(ORDERFLOW) up

.PHONY: migrate
migrate: $(STAMP) ## bring the database's tables and grants up to date
	@$(ORDERFLOW) migrate

.PHONY: order-run
order-run: $(STAMP) ## the function orders alone, through functions-framework (PORT=8080)
	@$(call function,orders,8080)

.PHONY: assembly-run
assembly-run: $(STAMP) ## the function assembly_on_payment alone, through functions-framework (PORT=8081)
	@$(call function,assembly_on_payment,8081)

.PHONY: notification-run
notification-run: $(STAMP) ## the function notify alone, through functions-framework (PORT=8083)
	@$(call function,notify,8083)

##@ Checks

.PHONY: check
check: format-check lint types contracts terraform-check test ## format, lint, types, layering, contracts, Terraform, then all tests

.PHONY: test
test: $(STAMP) $(AUDIT_STAMP) ## all tests, on real brokers and databases (ARGS="-k name", WORKERS=1 one after another)
	@$(need_java)
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: format
format: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

.PHONY: format-check
format-check: $(STAMP)
	@$(BIN)/ruff format --check .

.PHONY: lint
lint: $(STAMP) ## lint, and the layering of the modules
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

.PHONY: types
types: $(STAMP) ## strict types
	@$(BIN)/mypy

.PHONY: audit
audit: $(STAMP) $(AUDIT_STAMP) ## the locked packages' licences, an SBOM in build/sbom.json, and known vulnerabilities (ADVISORIES=folder)
	@ADVISORIES=$(ADVISORIES) $(BIN)/python -m ops.audit

.PHONY: contracts
contracts: $(STAMP) ## topics, AsyncAPI, schemas, manifests and code agree (`orderflow contracts generate` renews the schemas)
	@$(ORDERFLOW) contracts check

##@ Faults

.PHONY: doctor
doctor: $(STAMP) ## settings that lose data or surprise, with what to do (ARGS="--prod --strict")
	@$(ORDERFLOW) doctor $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## kill, freeze, restart and cut off everything under load, then count (ARGS="--minutes 4 --seed 7"; docs/chaos.md)
	@$(need_java)
	@$(BIN)/python -m chaos $(ARGS)

.PHONY: overload
overload: $(STAMP) ## offer three times what it can take, for five minutes, and see that it holds and drains (ARGS="--minutes 1")
	@$(need_java)
	@$(BIN)/python -m chaos.overload $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## feed everything that reads bytes from outside with what nobody would write (ARGS="--minutes 5 --target http_answer")
	@$(BIN)/python -m fuzz $(ARGS)

##@ Speed

.PHONY: bench
bench: $(BENCH_STAMP) ## our speed beside peers and limits, in one run with real durability (ARGS="--rows full_path,hand_loop --rounds 5")
	@$(need_java)
	@$(BENCH) run $(ARGS)

.PHONY: bench-quick
bench-quick: $(BENCH_STAMP) ## the same with few events and one round, in under three minutes
	@$(need_java)
	@$(BENCH) run --quick $(ARGS)

.PHONY: bench-growth
bench-growth: $(BENCH_STAMP) ## the full path with more processes, partitions, rows and bytes
	@$(need_java)
	@$(BENCH) growth $(ARGS)

.PHONY: bench-memory
bench-memory: $(BENCH_STAMP) ## memory of source, relay and functions over 1,000,000 events
	@$(need_java)
	@$(BENCH) memory $(ARGS)

.PHONY: bench-removal
bench-removal: $(BENCH_STAMP) ## the full path while 5,000,000 old rows leave inbox and outbox, and without that
	@$(need_java)
	@$(BENCH) removal $(ARGS)

##@ Kafka

.PHONY: kafka-up
kafka-up: $(STAMP) ## start a broker alone, in the background
	@$(need_java)
	@$(ORDERFLOW) kafka up

.PHONY: kafka-down
kafka-down: $(STAMP) ## stop it; its data stay
	@$(ORDERFLOW) kafka down

.PHONY: kafka-reset
kafka-reset: $(STAMP) ## stop it and forget its data
	@$(ORDERFLOW) kafka reset --yes

.PHONY: kafka-topics-create kafka-create-topics
kafka-topics-create kafka-create-topics: $(STAMP) ## create every topic of contracts/topics.yaml
	@$(ORDERFLOW) topics create --local

.PHONY: kafka-topics
kafka-topics: $(STAMP) ## list the topics
	@$(ORDERFLOW) topics list

.PHONY: kafka-describe
kafka-describe: $(STAMP) ## describe a topic (TOPIC=)
	@$(call needs,TOPIC)
	@$(ORDERFLOW) topics describe $(TOPIC)

.PHONY: kafka-topic-delete
kafka-topic-delete: $(STAMP) ## delete a topic and its records (TOPIC=, YES=1 does not ask)
	@$(call needs,TOPIC)
	@$(ORDERFLOW) topics delete $(TOPIC) $(if $(YES),--yes)

.PHONY: kafka-producer
kafka-producer: $(STAMP) ## write each line of standard input to a topic (TOPIC=, KEY_SEPARATOR=:)
	@$(call needs,TOPIC)
	@$(ORDERFLOW) topics produce $(TOPIC) --lines $(if $(KEY_SEPARATOR),--key-separator '$(KEY_SEPARATOR)')

.PHONY: kafka-consumer
kafka-consumer: $(STAMP) ## show a topic's records (TOPIC=, FROM=beginning|latest, ARGS="--max 10 --json")
	@$(call needs,TOPIC)
	@$(ORDERFLOW) topics consume $(TOPIC) --from $(FROM) $(ARGS)

.PHONY: kafka-consume-payment
kafka-consume-payment: $(STAMP) ## every record of the payments' topic
	@$(ORDERFLOW) topics consume $(PAYMENT) --from beginning $(ARGS)

.PHONY: kafka-consume-assembly
kafka-consume-assembly: $(STAMP) ## every record of the assemblies' topic
	@$(ORDERFLOW) topics consume $(ASSEMBLY) --from beginning $(ARGS)

.PHONY: kafka-consume-dlq
kafka-consume-dlq: $(STAMP) ## every letter of every dead-letter topic
	@$(ORDERFLOW) topics consume --dead-letters --from beginning $(ARGS)

.PHONY: kafka-tail-payment
kafka-tail-payment: $(STAMP) ## new records of the payments' topic only
	@$(ORDERFLOW) topics consume $(PAYMENT) --from latest $(ARGS)

.PHONY: kafka-tail-assembly
kafka-tail-assembly: $(STAMP) ## new records of the assemblies' topic only
	@$(ORDERFLOW) topics consume $(ASSEMBLY) --from latest $(ARGS)

.PHONY: kafka-tail-notification-dlq
kafka-tail-notification-dlq: $(STAMP) ## new letters of the notifications' dead-letter topic only
	@$(ORDERFLOW) topics consume $(NOTIFICATION_DLQ) --from latest $(ARGS)

.PHONY: kafka-playground
kafka-playground: $(STAMP) ## write a record to the playground topic and read it back
	@$(ORDERFLOW) topics produce $(PLAYGROUND) "hello at $$(date -u +%FT%TZ)" --key playground --header made-by=make
	@$(ORDERFLOW) topics consume $(PLAYGROUND) --until-end

##@ Images

.PHONY: images
images: $(STAMP) ## build every image with Docker (REGISTRY=, TAG=, BASE_IMAGE=, WATCHDOG_IMAGE=, CERTIFICATES=PEM text)
	@$(BIN)/python -m ops.images build

.PHONY: image-report
image-report: $(STAMP) ## of each image that `make images` built: its own layers, its functions' cold start and idle memory
	@$(BIN)/python -m ops.images report

.PHONY: images-check
images-check: $(STAMP) ## build every image from a base made here, start each, send it events (where a Docker engine can be had)
	@$(need_java)
	@$(BIN)/python -m ops.images check

##@ Docker

.PHONY: up-docker
up-docker: ## everything in containers, built from this checkout (docs/compose.md)
	@$(need_compose); $$compose up --detach --build $(ARGS)
	@echo "orders: http://127.0.0.1:$${ORDERS_PORT:-8080}/orders  Kafka: localhost:$${KAFKA_PORT:-19092}  PostgreSQL: localhost:$${POSTGRES_PORT:-15432}"

.PHONY: down-docker
down-docker: ## end and remove the containers; their data stay (ARGS=-v forgets the data)
	@$(need_compose); $$compose down $(ARGS)

##@ Terraform

.PHONY: terraform-fmt
terraform-fmt: ## format infra/terraform
	@terraform fmt -recursive infra/terraform

.PHONY: terraform-check
terraform-check: ## its format; where the providers are to be had, whether it is valid and plans from nothing
	@infra/terraform/check.sh

.PHONY: terraform-plan
terraform-plan: $(STAMP) ## what Terraform would change at the local servers, which must run (ARGS=)
	@$(call local_terraform,plan)

.PHONY: terraform-apply
terraform-apply: $(STAMP) ## make the local servers' topics and roles by Terraform, and take over those that are there (YES=1 does not ask)
	@$(call local_terraform,apply $(if $(YES),-auto-approve))

##@ Housekeeping

.PHONY: venv
venv: $(STAMP) ## .venv, from requirements.lock (every other target makes it when it is missing or out of date)

.PHONY: lock
lock: ## renew both requirements*.lock from pyproject.toml, and the images' sets with their pins (UPGRADE=1 takes the newest versions)
	@$(call need_python)
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@build/lock/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-markers \
	  --extra ops --extra dev $(if $(UPGRADE),--upgrade) --output-file requirements.lock pyproject.toml
	@build/lock/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra ops --extra bench --constraint requirements.lock --output-file requirements-bench.lock pyproject.toml
	@build/lock/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --group audit $(if $(UPGRADE),--upgrade) --output-file requirements-audit.lock
	@$(PYTHON) -m ops.images.sets build/lock/bin/uv
	@! grep -nE '://|--(extra-)?index-url|--find-links' requirements*.lock template/*/requirements.txt functions/*/requirements.txt infra/images/*.txt \
	  || { echo "an address landed in a lock file" >&2; exit 1; }

.PHONY: clean
clean: ## remove what was built, not .venv and not the data in .orderflow
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk -F ':.*## ' ' \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z -]*:.*## / { count = split($$1, names, " "); for (n = 1; n <= count; n++) printf "  make %-28s %s\n", names[n], $$2 }' Makefile

# Whole and checked by hash: nothing is built that the lock does not name, and a half-made environment has no stamp.
$(STAMP):
	@$(call make_venv,.venv,requirements.lock)
	@touch $@

# Apart, so that what looks at our packages is none of them.
$(AUDIT_STAMP):
	@$(call need_python)
	@echo "making .venv-audit from requirements-audit.lock" >&2; rm -f .venv-audit/made-from-*
	@.venv-audit/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-audit.lock
	@touch $@

# Apart, so that the peers and the plots' library are not where nobody measures.
$(BENCH_STAMP):
	@$(call make_venv,.venv-bench,requirements-bench.lock)
	@touch $@

make_venv = $(call need_python); \
  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }; \
  echo "making $(1) from $(2)" >&2; \
  rm -f $(1)/made-from-*; \
  $(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1); \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(2); \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
need_python = test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv" >&2; exit 1; }
need_java = command -v java >/dev/null || { echo "Java 17 or newer is missing: apt-get install openjdk-17-jre-headless" >&2; exit 1; }; \
  major=$$(java -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1); test "$${major:-0}" -ge 17 || \
  { echo "Java $${major:-of an unknown version} is too old, 17 or newer is needed: apt-get install openjdk-17-jre-headless" >&2; exit 1; }; \
  command -v mvn >/dev/null || { echo "Maven is missing: apt-get install maven" >&2; exit 1; }
# KAFKA_BROKERS names a broker that runs, and then neither is needed.
need_java_for_our_broker = test -n "$${KAFKA_BROKERS:-}" || { $(need_java); }
# Sets `compose`: v2 where Docker has it, else v1, of which 1.29 is the first that waits for a one-shot to end well.
need_compose = command -v docker >/dev/null || { echo "Docker is missing: apt-get install docker.io docker-compose" >&2; exit 1; }; \
  if docker compose version >/dev/null 2>&1; then compose="docker compose"; \
  elif command -v docker-compose >/dev/null; then compose=docker-compose; \
  else echo "Docker Compose is missing: apt-get install docker-compose, or Docker's own docker-compose-plugin" >&2; exit 1; fi; \
  version=$$($$compose version --short 2>/dev/null); case "$${version\#v}" in 0.* | 1.?.* | 1.1?.* | 1.2[0-8].*) \
    echo "$$compose $$version is too old, 1.29 or newer is needed" >&2; exit 1;; esac; \
  docker info >/dev/null 2>&1 || { echo "Docker does not answer$${DOCKER_HOST:+ at $$DOCKER_HOST}: is it started, and may $$(id -un) use it?" >&2; exit 1; }
# The local state lies beside the local data that it describes. One thing at a time: docs/terraform.md says why.
local_terraform = command -v terraform >/dev/null || { echo "terraform 1.9 or newer is missing" >&2; exit 1; }; \
  found=$$($(BIN)/python -m ops.terraform); here=$$(dirname "$$found"); export TF_DATA_DIR="$$here/providers"; umask 077; \
  terraform -chdir=infra/terraform init -input=false -reconfigure -backend-config=path="$$here/terraform.tfstate" >/dev/null; \
  terraform -chdir=infra/terraform $(1) -parallelism=1 -var-file=environments/local.tfvars -var-file="$$found" $(ARGS)
needs = test -n "$($(1))" || { echo "say which: make $@ $(1)=…" >&2; exit 2; }
function = exec $(BIN)/functions-framework --asgi --target=handle --source=functions/$(1)/main.py --port $${PORT:-$(2)}
