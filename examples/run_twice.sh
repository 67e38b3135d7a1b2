#!/bin/sh
# Runs retrieve_store on one new pool: the first life stores, the second finds it all, the third
# meets one flipped byte, drops what is not right and stores it again.
set -eu
folder=$(mktemp -d ./retrieve_store.XXXXXX)
trap 'rm -rf "$folder"' EXIT
"$1" "$folder/pool" | tee "$folder/first"
"$1" "$folder/pool" | tee "$folder/second"
grep -q '^0 of 8 blocks are on disk' "$folder/first"
grep -q '^stored 8 blocks' "$folder/first"
grep -q '^8 of 8 blocks are on disk' "$folder/second"
! grep -q '^stored' "$folder/second"
grep -q ', every byte right' "$folder/second"

# Data are bytes that count up: find forty of them in a row, and change the one behind.
member=$folder/pool/rank0.member0.tutti
run='@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg'
at=$(LC_ALL=C grep -obaF "$run" "$member" | head -n 1 | cut -d: -f1)
printf 'x' | dd of="$member" bs=1 seek="$((at + 40))" conv=notrunc status=none
"$1" "$folder/pool" | tee "$folder/third"
grep -q '^8 of 8 blocks are on disk' "$folder/third"
grep -q '^stored [1-8] blocks' "$folder/third"
grep -q ', every byte right' "$folder/third"
