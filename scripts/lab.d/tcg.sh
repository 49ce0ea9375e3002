# shellcheck shell=bash
# How scripts/lab starts qemu. To be sourced by it: CPUS, MEMORY, LIMIT, RUN, RW and KERNEL are its.

run_tcg() {
  local pids=() shares=() n=0 dir code=0
  mkfifo "$RUN/out" "$RUN/err"
  cat "$RUN/out" & pids+=($!)
  cat "$RUN/err" >&2 & pids+=($!)
  for dir in "${RW[@]}"; do
    shares+=(-virtfs "local,path=$dir,mount_tag=rw$n,security_model=none")
    n=$((n + 1))
  done
  timeout -k 5 "$LIMIT" qemu-system-x86_64 -accel tcg,thread=multi,tb-size=1024 -cpu max -smp "$CPUS" -m "$MEMORY" \
    -nodefaults -no-user-config -display none -no-reboot -device virtio-rng-pci \
    -kernel "$KERNEL/vmlinuz" -initrd "$KERNEL/initramfs" -append "console=ttyS0 quiet panic=-1 mitigations=off" \
    -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
    -virtfs "local,path=$RUN,mount_tag=lab,security_model=none" "${shares[@]}" \
    -serial "file:$RUN/console" -chardev "file,id=out,path=$RUN/out" -serial chardev:out \
    -chardev "file,id=err,path=$RUN/err" -serial chardev:err </dev/null >"$RUN/qemu" 2>&1 &
  local qemu=$!
  trap 'kill "$qemu" "${pids[@]}" 2>/dev/null; wait "$qemu"; exit 130' INT TERM
  wait "$qemu" || code=$?
  # Where qemu never opened them, nobody else will.
  kill -0 "${pids[0]}" 2>/dev/null && sleep 0.2
  kill "${pids[@]}" 2>/dev/null || true
  cat "$RUN/qemu" >&2
  return $code
}
