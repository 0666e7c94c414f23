#!/usr/bin/env bash
# Seen: Zensical 0.0.73 on Python 3.11, 28 November 2026.
#
# One expects: a build with --strict fails where a link of the site leads nowhere. It does for links within pages. An entry of `nav`
# that names a folder, which other makers of such sites read as "all pages in there", is passed: every page of the site then has
# a link to `pages/`, where no page is, and the build says that it found no issues. So a menu needs a check of one's own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/python"
"$work/python/bin/pip" install --quiet zensical==0.0.73
mkdir -p "$work/site/docs/pages"
cd "$work/site"
printf '[project]\nsite_name = "x"\nnav = [{"Home" = "index.md"}, {"Pages" = "pages/"}]\n' >zensical.toml
echo '# One' >docs/pages/one.md

echo '# Home' >docs/index.md
said=$("$work/python/bin/python" -m zensical build --clean --strict 2>&1)
links=$(grep -c 'href="./pages/"' site/index.html)
echo "$said"
echo "links to pages/ on the first page: $links; a page there: $([ -e site/pages/index.html ] && echo yes || echo no)"

printf '# Home\n\n[elsewhere](pages/none.md)\n' >docs/index.md
within=0
"$work/python/bin/python" -m zensical build --clean --strict >/dev/null 2>&1 || within=$?
echo "a dead link within a page: exit code $within"

[[ "$said" == *"No issues found"* ]] && [ "$links" -gt 0 ] && [ ! -e site/pages/index.html ] && [ "$within" -ne 0 ]
