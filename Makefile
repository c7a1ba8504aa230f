# The front door. Everything a person or a machine does with this checkout starts here.

CARGO  ?= cargo
PRIVATE = target/private
# Where cargo builds: CARGO_TARGET_DIR and cargo's own configuration may move it.
# Root, who installs, may have no cargo.
MOVED   = $(shell command -v $(firstword $(CARGO)) >/dev/null && \
            $(CARGO) metadata --locked --no-deps --format-version 1 | \
            python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
TARGET  = $(or $(MOVED),$(CURDIR)/target)
BUILT   = $(TARGET)/release
export PATH := $(CURDIR)/$(PRIVATE)/bin:$(PATH)

.PHONY: help demo demo-web demo-ldap demo-replicas demo-sso demo-tlsnego demo-chain release install static deb image sbom run test test-full test-packages test-containers test-reproducible test-upgrade check check-arrows check-docs check-size docs docs-site oracle bench fuzz peers

help:
	@echo 'make demo     build, make a demo domain, serve it, ask who alice is, stop'
	@echo 'make demo-web the same behind nginx, or behind our own TLS-terminating proxy where there is none'
	@echo 'make demo-ldap the accounts in OpenLDAP (slapd and openssl have to be installed), with 1,000 people'
	@echo 'make demo-replicas three servers behind HAProxy with one PostgreSQL and its standby: one after the other is killed (PostgreSQL and HAProxy have to be installed)'
	@echo 'make demo-sso the master secret: an administrator gets it, another user does not, it is rotated'
	@echo 'make demo-tlsnego a SOAP client negotiates a token with the gateway, and calls a service behind it'
	@echo 'make demo-chain three domains, a sidecar and a collector: one question, and its one trace as a tree'
	@echo 'make release  the program to install, stripped, with its symbols beside it'
	@echo 'make install  what make release built, with unit, man pages and completions, into /usr (or DESTDIR)'
	@echo 'make deb      the Debian package of the release, in target/dist'
	@echo 'make static   the release without libraries of the system, for any Linux'
	@echo 'make image    an OCI image of the static release, in target/dist/image: no container engine is needed'
	@echo 'make sbom     what the release is built from, as CycloneDX, in target/dist/rcmpd.cdx.json'
	@echo 'make run      make a demo domain in ./rcmpd-demo (unless it is there) and serve it'
	@echo 'make test     everything that proves the product, foreign peers included'
	@echo 'make check    format, lints, documentation and its links, spelling, dependency rules'
	@echo 'make docs     write the tables in docs/ that are made from the code'
	@echo 'make docs-site the documentation as a site, in target/dist/site'
	@echo 'make oracle   paths beside certval, another implementation'
	@echo 'make bench    what it costs, beside the budgets'
	@echo 'make fuzz     the fuzz targets, each for a while (FUZZ_SECONDS=600)'

# The profile is quick to build; what is measured and shipped is the release.
demo demo-web demo-ldap demo-replicas demo-sso demo-tlsnego demo-chain:
	@echo 'Building rcmpd: some four minutes on two cores the first time, seconds later'
	$(CARGO) build --locked --profile demo -p rcmpd
	@echo 'Running the demo: some seconds'
	@deploy/$@ $(TARGET)/demo/rcmpd

# What is shipped names no folder of the machine that built it, so two builds of one commit are equal octet for octet. Of
# several mappings the last one that matches counts.
MAPPED   = $(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo $(CURDIR)=/rcmpd $(TARGET)=/target
# Relocations in a packed form, which glibc reads since 2.36: 0.7 MiB less.
PACKED   = -C link-arg=-Wl,-z,pack-relative-relocs
SHIPPED  = RUSTFLAGS='$(strip $(RUSTFLAGS) $(PACKED) $(MAPPED:%=--remap-path-prefix=%))' \
           CFLAGS='$(strip $(CFLAGS) $(MAPPED:%=-ffile-prefix-map=%))' $(CARGO)

# The program to install, with its symbols in a file beside it that gdb and perf find by name.
release:
	$(SHIPPED) build --locked --release -p rcmpd
	@mkdir -p $(TARGET)/dist
	objcopy --only-keep-debug --compress-debug-sections $(BUILT)/rcmpd $(TARGET)/dist/rcmpd.debug
	objcopy --strip-all --add-gnu-debuglink=$(TARGET)/dist/rcmpd.debug $(BUILT)/rcmpd $(TARGET)/dist/rcmpd
	@ls -l $(TARGET)/dist

PROGRAM = $(TARGET)/dist/rcmpd
SHARE   = $(DESTDIR)/usr/share
install:
	@test -x $(PROGRAM) || { echo 'There is no $(PROGRAM): run make release first' >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(DESTDIR)/usr/bin/rcmpd
	install -D -m 644 deploy/systemd/rcmpd.service $(DESTDIR)/usr/lib/systemd/system/rcmpd.service
	install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system deploy/systemd/rcmpd-*.socket
	install -D -m 644 deploy/systemd/rcmpd.sysusers $(DESTDIR)/usr/lib/sysusers.d/rcmpd.conf
	install -D -m 644 deploy/systemd/rcmpd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/rcmpd.conf
	install -D -m 644 deploy/systemd/rcmpd.logrotate $(DESTDIR)/etc/logrotate.d/rcmpd
	install -d $(SHARE)/man/man1 $(SHARE)/bash-completion/completions $(SHARE)/zsh/vendor-completions
	$(PROGRAM) man --dir $(SHARE)/man/man1
	$(PROGRAM) completions bash > $(SHARE)/bash-completion/completions/rcmpd
	$(PROGRAM) completions zsh > $(SHARE)/zsh/vendor-completions/_rcmpd

deb: release
	deploy/debian/build $(PROGRAM) $(TARGET)/dist

sbom:
	deploy/sbom $(TARGET)/dist/rcmpd.cdx.json

# musl-gcc is in Debian's package musl-tools.
MUSL = $(shell uname -m)-unknown-linux-musl
static: PACKED =
static:
	rustup target add $(MUSL)
	$(SHIPPED) build --locked --release --target $(MUSL) -p rcmpd
	@mkdir -p $(TARGET)/dist
	objcopy --strip-all $(TARGET)/$(MUSL)/release/rcmpd $(TARGET)/dist/rcmpd-static
	@ls -l $(TARGET)/dist/rcmpd-static

image: static
	deploy/container/image $(TARGET)/dist/rcmpd-static $(TARGET)/dist/image

run:
	$(SHIPPED) build --locked --release -p rcmpd
	@test -e rcmpd-demo/rcmpd.toml || $(BUILT)/rcmpd quickstart rcmpd-demo
	$(BUILT)/rcmpd serve -c rcmpd-demo/rcmpd.toml

# Peers come first, so that a missing one is said before anything is built. The count of the one run ends it.
test: peers
	$(CARGO) build --locked -p rcmpd
	$(CARGO) test --locked --workspace --doc --quiet
	$(CARGO) nextest run --locked --workspace --no-fail-fast

peers:
	@tests/peers/install

# Root, and Debian's packages mmdebstrap, lintian, skopeo, umoci and musl-tools, and those that tests/containers.py names.
test-full: test test-packages test-containers
	REPLICAS_SECONDS=600 $(CARGO) nextest run --locked -p rcmpd-tests --test interop --no-capture \
		-E 'test(whatever_is_killed_or_stops_no_answer_is_wrong)'
	$(MAKE) test-upgrade
	$(MAKE) test-reproducible
	$(MAKE) fuzz FUZZ_SECONDS=600

# Earlier programs, each beside this one on the same database; after a release, name its tag. The first one is the
# last with the tables before, so servers that run see them change. The second one has the same tables.
PREVIOUS ?= 46231c72 0561d5cd
test-upgrade:
	rm -rf $(TARGET)/previous && git clone --quiet --no-checkout . $(TARGET)/previous
	set -e; for commit in $(PREVIOUS); do \
		git -C $(TARGET)/previous checkout --quiet $$commit; \
		(cd $(TARGET)/previous && CARGO_TARGET_DIR=$(TARGET)/previous-target $(CARGO) build --locked -p rcmpd); \
		RCMPD_PREVIOUS=$(TARGET)/previous-target/debug/rcmpd $(CARGO) nextest run --locked -p rcmpd-tests \
			--test interop --no-capture -E 'test(servers_are_upgraded_one_after_the_other)'; \
	done

test-packages: deb image check-size
	python3 tests/debian_package.py $$(deploy/debian/build $(PROGRAM) $(TARGET)/dist) \
		$$(PACKAGE_VERSION=9.0 deploy/debian/build $(PROGRAM) $(TARGET)/dist/newer)
	python3 tests/container_image.py $(TARGET)/dist/image

# The Compose file in containers, with the image as it is shipped.
test-containers: image
	python3 tests/containers.py $(TARGET)/dist/image $(TARGET)/dist/rcmpd-static

# Two release builds of this commit are equal octet for octet. Some 40 minutes on two cores.
test-reproducible:
	rm -rf $(TARGET)/reproducible
	tests/reproducible $(TARGET)/reproducible

# The limit of the released program, stripped: 25 MiB.
SIZE_MAX = 26214400
check-size: release
	@size=$$(stat -c %s $(PROGRAM)); echo "$(PROGRAM): $$size octets of $(SIZE_MAX)"; test $$size -le $(SIZE_MAX) || \
		{ echo 'The program is larger than its limit: see "Size of the program" in BENCHMARKS.md' >&2; exit 1; }

check: check-arrows check-docs
	$(CARGO) fmt --all --check
	rustfmt --edition 2024 --check examples/csv-store/src/*.rs examples/csv-store/tests/*.rs
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --quiet
	@tests/peers/install tools
	typos
	cargo-deny check bans licenses sources
	@cd fuzz && $(CARGO) metadata --locked --format-version 1 >/dev/null
	@cd tests/oracle-certval && $(CARGO) metadata --locked --format-version 1 >/dev/null

check-arrows:
	@python3 tests/check_arrows.py
	@python3 tests/check_modules.py

check-docs:
	@python3 tests/check_docs.py

# The tests compare these tables with the code; UPDATE_EXPECT has them written instead.
docs:
	UPDATE_EXPECT=1 $(CARGO) nextest run --locked -p rcmp-service -E 'test(tables_of_reasons)'

docs-site:
	@tests/peers/install tools
	$(CARGO) build --locked -p rcmpd
	docs/site/build mdbook $(TARGET)/dist/site $(TARGET)/debug/rcmpd
	@python3 tests/check_site.py $(TARGET)/dist/site

# Some 160 crates of others, so not part of `make test`.
oracle: peers
	CARGO_TARGET_DIR=target/oracle-certval $(CARGO) run --locked --manifest-path tests/oracle-certval/Cargo.toml -- $(PRIVATE)

bench:
	$(SHIPPED) build --locked --release -p rcmpd
	$(SHIPPED) bench --locked -p rcmpd-tests
	$(SHIPPED) bench --locked -p rcmp-service --bench crl
	$(SHIPPED) bench --locked -p rcmp-service --bench path
	$(SHIPPED) bench --locked -p store-postgres --bench lookup

FUZZ_SECONDS ?= 60
fuzz:
	@fuzz/run $(FUZZ_SECONDS)
