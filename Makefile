# Everything a newcomer needs is `make demo` and `make test`; `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu crash crash-points fuzz contract needs test-needs bench lint doc deny clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: needs ## Meter two simulated nodes on this machine; Ctrl-C ends it, FOR=30 ends it by itself
	cargo build --workspace
	@./target/debug/tonnage-demo $(if $(FOR),--for $(FOR))

test: test-needs ## Install what the tests need, build everything, run every test
	cargo build --workspace
	cargo test --workspace
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		TONNAGE_TEST_STORE=postgres cargo test --workspace --lib -- --skip churn; \
	else echo "the aggregator's tests over PostgreSQL: SKIPPED, it is not installed"; fi
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/prometheus/alerts.yaml deploy/prometheus/recording.yaml && \
		promtool test rules deploy/prometheus/tests/*.yaml; \
	else echo "the tests of Prometheus rules: SKIPPED, promtool is not installed"; fi

test-gpu: needs ## The agent on this machine's NVIDIA GPU, under loads that measure themselves (some minutes)
	cargo build --workspace
	cargo test -p tonnage-gpu

crash-points: needs ## Try every crash point of the spool and the store (some minutes)
	cargo build --workspace
	cargo test -p tonnage-tests --test scenarios crash_points -- --ignored --nocapture --test-threads=1

fuzz: ## Feed every parser of outside bytes for SECONDS=300, from SEED=n, TARGET=all (dev build: overflow is found)
	cargo build --workspace
	./target/debug/tonnage-fuzz --target $(or $(TARGET),all) --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))

contract: needs ## Ask the REST API for anything by its document, with Schemathesis: SEED=n, EXAMPLES=300 for each endpoint, on both engines
	cargo build --workspace
	TONNAGE_TEST_EXAMPLES=$(or $(EXAMPLES),300) $(if $(SEED),TONNAGE_TEST_SEED=$(SEED)) \
		cargo test -p tonnage-tests --test scenarios contract -- --nocapture

needs: # What a build needs and cargo does not bring
	@tests/install-needs build

test-needs: # The same, and real systems that tests run against (Slurm, PostgreSQL, Prometheus)
	@tests/install-needs

bench: needs ## Measure the agent and the aggregator (release build, some minutes)
	cargo build --release --workspace
	./target/release/tonnage-bench

crash: needs ## A storm of kills and cuts over real processes; SEED=n brings one back, KILLS=k NODES=n say how hard, STORE=postgres
	cargo build --workspace
	@./target/debug/tonnage-crash --kills $(or $(KILLS),200) --nodes $(or $(NODES),4) --store $(or $(STORE),sqlite) $(if $(SEED),--seed $(SEED))

lint: ## Format and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings

doc: ## The documentation of every crate, warnings denied
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps

deny: ## Licences, bans and sources of all dependencies; advisories where they can be reached
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked
	cargo deny check bans licenses sources
	@if cargo deny fetch db >/dev/null 2>&1; then cargo deny check advisories; \
	else echo "advisories: SKIPPED, the advisory database cannot be reached from here"; fi

clean: ## Remove what was built
	cargo clean
