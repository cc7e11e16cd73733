# Needs Rust 1.95 or newer. Everything else that is missing is installed (Debian: apt-get, as root or with sudo).
SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help deps deps-demo build release deb rpm tarball image book record-demo fmt lint check test test-all demo clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install the packages and tools that are missing on this machine
	@./scripts/install-deps.sh
	@./scripts/get-cargo-deny.sh

deps-demo:
	@./scripts/install-deps.sh demo

build: ## build for development
	@./scripts/install-deps.sh build
	cargo build

release: ## build target/release/tamada
	@./scripts/install-deps.sh build
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=$(CURDIR)/scripts/link-in-order cargo build --release

deb: release ## Debian packages, in target/packages
	@./scripts/install-deps.sh package
	@./scripts/package.sh deb

rpm: release ## rpm packages, in target/packages
	@./scripts/install-deps.sh package
	@./scripts/package.sh rpm

tarball: release ## an archive for other systems, in target/packages
	@./scripts/install-deps.sh package
	@./scripts/package.sh tarball

image: release ## a container image; needs podman, buildah or docker
	@./scripts/image.sh

# tidy checks the links first: mdBook does not.
book: ## the documentation as HTML, in target/book
	@./scripts/get-mdbook.sh $(CURDIR)/target/mdbook
	cargo xtask tidy
	target/mdbook/bin/mdbook build

fmt: ## format all code
	cargo fmt --all

lint: ## clippy on everything
	cargo clippy --workspace --all-targets -- -D warnings

check: ## run before each commit: format, tidy, clippy, tests without servers
	cargo fmt --all --check
	cargo xtask tidy
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --quiet --package tamada-config --package tamada-ha --package tamada-sim --package xtask

test: ## all checks, and the tests with PostgreSQL, the DCS servers and Patroni
	@./scripts/test.sh

test-all: ## test, and the tests that take long
	@./scripts/test.sh all

demo: deps-demo release ## a cluster of three members on this machine, to watch and to break
	@./scripts/demo.sh

record-demo: deps-demo release ## record the demo with a failover for the README: docs/demo.svg, docs/demo.cast
	@./scripts/record-demo.sh

clean: ## remove everything that was built and fetched
	cargo clean
