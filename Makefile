# Cella: thin targets over meson and the scripts. `make help` lists them.
BUILD    ?= build
PREFIX   ?= /usr/local
DESTDIR  ?=
STATE    ?= /var/lib/cella
JOBS     ?= $(shell nproc)
RINGS    ?=
CELLA     = $(BUILD)/bin/cella

.PHONY: all demo check check-microvm bench template install clean help
all: packages
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --prefix=$(PREFIX) >$(BUILD)-setup.log || { cat $(BUILD)-setup.log; exit 1; }
	@rm -f $(BUILD)-setup.log
	@ninja -C $(BUILD) -j $(JOBS) --quiet
	@packaging/stage $(BUILD)

.PHONY: packages
packages:
	@packaging/need build run

template: all
	@$(CELLA) template build python --state $(STATE) >/dev/null

demo: template
	@BUILD=$(BUILD) STATE=$(STATE) examples/demo/demo

check: packages
	@packaging/need test
	@/usr/bin/python3 tools/check.py --build $(BUILD) --jobs $(JOBS) $(RINGS)

check-microvm:
	@$(MAKE) --no-print-directory check RINGS="microvm microvm_linux"

bench: template
	@packaging/need bench
	@CELLA_BUILD=$(abspath $(BUILD)/bin) CELLA_CONTEXTS=$(abspath $(BUILD)/contexts) CELLA_TEMPLATES=$(STATE)/templates /usr/bin/python3 bench/run.py $(BENCH)

install: all
	@meson configure $(BUILD) -Dprefix=$(PREFIX) >/dev/null
	@meson install -C $(BUILD) $(if $(DESTDIR),--destdir "$(abspath $(DESTDIR))") --quiet

clean:
	rm -rf $(BUILD) $(BUILD)-*

help:
	@echo "make           build into $(BUILD)/"
	@echo "make demo      a first run of everything, as root: packages, build, template, daemon, an analysis of a CSV"
	@echo "make check     all tests; RINGS=\"unit cli\" for some of them"
	@echo "make check-microvm  the microVM driver: on this machine's KVM where it boots Linux, else in an emulated machine"
	@echo "make bench     benchmarks; BENCH=\"--quick\" passes options on"
	@echo "make template  build the python template into STATE=$(STATE)"
	@echo "make install   PREFIX=$(PREFIX) DESTDIR="
	@echo "make clean"
