"""A report page as a reader's program sees it, for the tests of pages."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, attributes and text of a page; every opened tag must close in order."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action", "data")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def stands_alone(text):
    """The page, which runs nothing, fetches nothing and holds no markup of its data."""
    found = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "b", "u"} & set(found.tags)
    assert not found.links
    assert "url(" not in text
    assert "@import" not in text
    return found
