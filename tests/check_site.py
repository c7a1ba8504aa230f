#!/usr/bin/env python3
"""Checks a site that docs/site/build made: usage: check_site.py FOLDER

Each link and each asset of a page leads to a file of the site, and its anchor to an element there. No page loads anything from another host.
"""

import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.assets = set(), [], []

    def handle_starttag(self, tag, attributes):
        has = dict(attributes)
        if has.get("id"):
            self.ids.add(has["id"])
        if tag == "a" and has.get("name"):
            self.ids.add(has["name"])
        if tag == "a" and has.get("href"):
            self.links.append(has["href"])
        if tag in ("script", "img", "iframe", "source") and has.get("src"):
            self.assets.append(has["src"])
        if tag == "link" and has.get("href"):
            self.assets.append(has["href"])


def main():
    site = Path(sys.argv[1]).resolve()
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = Page()
        pages[path].feed(path.read_text())
    wrong, links = [], 0
    for path, page in pages.items():
        # All pages in one, for printing; and the one that servers show for a page that is missing, at any address.
        if path.name in ("print.html", "404.html"):
            continue
        for target in page.links + page.assets:
            url = urllib.parse.urlsplit(target)
            where = f"{path.relative_to(site)}: {target}"
            if url.scheme or url.netloc:
                if target in page.assets:
                    wrong.append(f"{where}: an asset of another host")
                continue
            links += 1
            leads_to = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not leads_to.is_file():
                wrong.append(f"{where}: no such file")
            elif url.fragment and leads_to in pages and urllib.parse.unquote(url.fragment) not in pages[leads_to].ids:
                wrong.append(f"{where}: no such anchor")
    if wrong or not links:
        sys.exit("\n".join(wrong) or "there is no link")
    print(f"site: {len(pages)} pages, {links} links")


main()
