# The few commands of every day; `just` alone lists them. Each is a script or one line, so none needs just.

_default:
    @just --list

# Installs what tests and benches need
setup:
    scripts/setup

# A volume with a filesystem, killed and back again
demo *args:
    scripts/demo {{ args }}

# Everything that must pass before a change lands
test *args:
    scripts/test {{ args }}

# Formatting, clippy, rustdoc and the tests that cargo runs
quick:
    scripts/test --quick

# The tests of one room: just room journal
room name:
    cargo test -p esker --lib {{ name }}::

# Sizes, layering, links, licences
tidy:
    cargo test -p esker --test tidy -- --no-capture

# The table of ratios and budgets
bench *args:
    scripts/bench {{ args }}

# Block devices in a kernel that has ublk; a topic may be named
lab *args:
    tests/lab.sh {{ args }}

# Seeds of the simulator; `just sim --seed 42 --trace` for one
sim *args:
    scripts/sim {{ args }}

# Bugs planted in the engine, that the simulator must find
mutants *args:
    scripts/mutants {{ args }}

# Random faults on the program under load; `just torture --minutes 480 --long` for a night
torture *args:
    tests/torture.sh {{ args }}

# Formats, and applies what clippy can fix
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty
    cargo fmt --all

# The documentation of the code
doc:
    cargo doc --workspace --no-deps --lib --open
