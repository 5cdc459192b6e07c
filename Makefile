# Everything a person does with this repository. `make` alone tells what there is.

ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check fmt soak bench setup fuzz advisories

help: ## This list
	@echo "Headwater: a sync server in front of Postgres."
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 19
	@echo
	@echo "Options of a command go into ARGS, for example: make demo ARGS=\"--reset --scale 10\""

demo: ## Build Headwater and run it with a private Postgres and sample data
	@scripts/demo $(ARGS)

test: ## Everything that must hold before a change lands (under 40 minutes on two cores)
	@scripts/test $(ARGS)

check: ## The part of the tests that runs nothing: format, lints, layers, docs
	@scripts/test static

fmt: ## Format the sources
	@bash -c '. scripts/env && cargo fmt --all'

soak: ## The long forms of the tests; SEEDS=n and HOURS=n choose how long
	@scripts/soak $(ARGS)

fuzz: ## Fuzz every decoder for a minute, or one as long as you like (ARGS="pgoutput -max_total_time=600")
	@scripts/fuzz $(ARGS)

advisories: ## Look the dependencies up in the advisory database (cargo-deny or cargo-audit, and network)
	@scripts/advisories $(ARGS)

bench: ## The measurements of docs/performance.md (one of them: ARGS=latency)
	@scripts/bench $(ARGS)

setup: ## Install what is missing (the other targets do it by themselves)
	@scripts/setup test
