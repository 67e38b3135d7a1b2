#!/bin/sh
# Runs retrieve_store twice on one new pool: the first life stores, the second finds it all.
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
