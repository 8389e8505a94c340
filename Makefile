.PHONY: demo serve test check bench clean

demo: ; @bash scripts/demo.sh
serve: ; @bash scripts/serve.sh
test: ; @bash scripts/test.sh
check: ; @bash scripts/check.sh
bench: ; @bash scripts/bench.sh
clean: ; @bash scripts/clean.sh
