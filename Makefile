# The front door. Meson does the work; every target first makes sure that what it needs is installed.
#
#   make                 builds build/warren and build/warren-agent
#   make demo [KEEP=1]   shows the whole thing on this machine; KEEP=1 leaves it running
#   make test            unit tests and system tests
#   make test-cluster    those about tunnels, proxy and mounts again: agents at one hub, clients at another
#   make lint            format, layers, REST contract, static analysis
#   make bench           measures against loopback, ssh -R and haproxy
#   make scale           many agents, tunnels and rows: docs/performance.md; SCALE_FLAGS="--agents 1000"
#   make fuzz            FUZZ_SECONDS=30 for each parser
#   make soak            SOAK_SECONDS=90 of random tunnels, clients and faults; SOAK_SEED= repeats
#   make install         PREFIX=/usr/local DESTDIR=
#   make deb             Debian packages of the last commit in build-deb: hub, agent, CLI
#   make deb-test        installs them in a copy-on-write view of this machine
#   make chart-test      renders the Helm chart, checks it, and runs its pods
#   make image           the OCI image of the last commit in build-image
#   make image-test      runs it
#
# SANITIZE=address,undefined or SANITIZE=thread gives any of them its own instrumented build.

SANITIZE ?=
BUILD    ?= build$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))
PREFIX   ?= /usr/local
JOBS     ?= $(shell nproc)
TESTS    ?= tests/system
WORKERS  ?= 4
FUZZ_SECONDS ?= 30
SOAK_SECONDS ?= 90
SOAK_SEED ?=
CC       := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX      := $(if $(filter default,$(origin CXX)),g++,$(CXX))
PYTHON   := /usr/bin/python3
comma    := ,
export CC CXX

meson_options := --prefix=$(PREFIX) $(if $(SANITIZE),-Db_sanitize=$(SANITIZE) -Db_lundef=false)

all: build

deps-%:
	@scripts/deps $(subst -, ,$*)

$(BUILD)/build.ninja:
	meson setup $(meson_options) $(BUILD) >/dev/null || { cat $(BUILD)/meson-logs/meson-log.txt; exit 1; }

compile: $(BUILD)/build.ninja
	@ninja -C $(BUILD) -j$(JOBS) --quiet

build: deps-build compile

unit: build
	meson test -C $(BUILD) --suite unit --print-errorlogs

system: deps-build-demo-test compile
	WARREN_BUILD=$(abspath $(BUILD)) SANITIZE=$(SANITIZE) \
	    $(PYTHON) -m pytest $(TESTS) -n $(WORKERS) $(PYTEST_FLAGS)

test: unit system

CLUSTER_TESTS ?= connect_udp failover failures faithful forward lifecycle limits mount mount_cli mount_flood \
    mount_programs mount_tcp pool proxy proxy_h2 proxy_http proxy_protocol read_ahead read_ahead_trouble recovery \
    socks spread sweep transfer udp web web_access web_names

test-cluster: deps-build-demo-test compile
	WARREN_TEST_HUBS=2 WARREN_BUILD=$(abspath $(BUILD)) SANITIZE=$(SANITIZE) $(PYTHON) -m pytest \
	    $(CLUSTER_TESTS:%=tests/system/test_%.py) -n $(WORKERS) $(PYTEST_FLAGS)

demo: deps-build-demo compile
	@KEEP=$(KEEP) scripts/demo $(BUILD)

lint: deps-build-lint compile
	scripts/lint $(BUILD)

bench: deps-build-demo-test-bench compile
	$(PYTHON) bench/run.py $(BENCH_FLAGS)

scale: deps-build-demo-test-bench compile
	$(PYTHON) bench/scale.py agents tunnels history $(SCALE_FLAGS)

fuzz: deps-build-fuzz
	scripts/fuzz $(FUZZ_SECONDS)

soak: deps-build-demo-test compile
	WARREN_BUILD=$(abspath $(BUILD)) SANITIZE=$(SANITIZE) \
	    $(PYTHON) tests/soak/soak.py --seconds $(SOAK_SECONDS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

install: build
	meson install -C $(BUILD) --no-rebuild

deb: deps-build-deb
	@scripts/deb build-deb

deb-test: deps-test
	WARREN_DEBS=build-deb $(PYTHON) -m pytest tests/packages/test_packages.py $(PYTEST_FLAGS)

chart-test: deps-build-demo-test-chart compile
	WARREN_BUILD=$(abspath $(BUILD)) $(PYTHON) -m pytest tests/packages/test_chart.py $(PYTEST_FLAGS)

image: deps-image
	@scripts/image build-image

image-test: deps-build-demo-test-chart-image compile
	WARREN_IMAGE=$(abspath build-image) WARREN_BUILD=$(abspath $(BUILD)) \
	    $(PYTHON) -m pytest tests/packages/test_image.py tests/packages/test_chart.py $(PYTEST_FLAGS)

clean:
	rm -rf build build-*

.PHONY: all compile build unit system test test-cluster demo lint bench scale fuzz soak install deb deb-test chart-test image \
    image-test clean
