//! Markdown of untrusted texts as a tree of harmless elements.
//!
//! A model's answer is read here and never becomes markup: the tree holds elements of a fixed list and texts, the page
//! makes the elements one by one, and HTML in an answer stays visible as what it is, text. Links lead to `http` and `https` alone,
//! images are told, not loaded.

use pulldown_cmark::{Event, Options, Parser, Tag};
use serde::Serialize;

/// Elements deeper than this lose their element and keep their text: a page with a million nested quotes is no page.
const MAX_DEPTH: usize = 32;

/// A piece of a text: words, or an element around pieces.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Node {
    /// Words, shown as they are.
    Text(String),
    /// An element.
    Element(Element),
}

/// An element of the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Element {
    /// Its name: one of those that [`element`] gives.
    #[serde(rename = "t")]
    pub(crate) tag: &'static str,
    /// Where a link leads; `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) href: Option<String>,
    /// The first number of an ordered list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<u64>,
    /// What is inside.
    #[serde(rename = "c", skip_serializing_if = "Vec::is_empty")]
    pub(crate) children: Vec<Node>,
}

impl Element {
    fn new(tag: &'static str) -> Self {
        Self { tag, href: None, start: None, children: Vec::new() }
    }
}

/// Reads a text. Line breaks stay line breaks, as people expect of a conversation.
pub(crate) fn read(text: &str) -> Vec<Node> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut tree = Tree { open: vec![Some(Element::new("div"))], n_open: 1 };
    let mut in_head = false;
    for event in Parser::new_ext(text, options) {
        match event {
            Event::Start(Tag::TableHead) => {
                in_head = true;
                tree.start(Some(Element::new("tr")));
            }
            Event::Start(tag) => tree.start(element(&tag, in_head)),
            Event::End(end) => {
                in_head &= !matches!(end, pulldown_cmark::TagEnd::TableHead);
                tree.end();
            }
            Event::Text(words) | Event::Html(words) | Event::InlineHtml(words) => tree.words(&words),
            Event::Code(words) => tree.leaf("code", &words),
            Event::InlineMath(words) | Event::DisplayMath(words) => tree.words(&words),
            Event::FootnoteReference(name) => tree.words(&format!("[^{name}]")),
            Event::SoftBreak | Event::HardBreak => tree.leaf("br", ""),
            Event::Rule => tree.leaf("hr", ""),
            Event::TaskListMarker(done) => tree.words(if done { "☑ " } else { "☐ " }),
        }
    }
    tree.finish()
}

/// A text whose every character counts, such as a judge's raw answer.
pub(crate) fn verbatim(text: &str) -> Vec<Node> {
    let mut element = Element::new("pre");
    element.children.push(Node::Text(text.to_owned()));
    vec![Node::Element(element)]
}

/// The element that shows a part of Markdown; `None` shows its content alone.
fn element(tag: &Tag<'_>, in_head: bool) -> Option<Element> {
    let name = match tag {
        Tag::Paragraph => "p",
        // An answer's headings stand below those of the page.
        Tag::Heading { level, .. } => ["h3", "h4", "h5", "h6"][(*level as usize - 1).min(3)],
        Tag::BlockQuote(_) => "blockquote",
        Tag::CodeBlock(_) => "pre",
        Tag::HtmlBlock => "html-text",
        Tag::List(None) => "ul",
        Tag::List(Some(_)) => "ol",
        Tag::Item => "li",
        Tag::Table(_) => "table",
        Tag::TableRow => "tr",
        Tag::TableCell if in_head => "th",
        Tag::TableCell => "td",
        Tag::Emphasis => "em",
        Tag::Strong => "strong",
        Tag::Strikethrough => "del",
        Tag::Link { .. } => "a",
        Tag::Image { .. } => "image-text",
        _ => return None,
    };
    let mut element = Element::new(name);
    match tag {
        Tag::List(start) => element.start = *start,
        Tag::Link { dest_url, .. } => match web_address(dest_url) {
            Some(address) => element.href = Some(address),
            None => element.tag = "dead-link",
        },
        _ => {}
    }
    Some(element)
}

/// The address when it leads into the web; anything else (`javascript:`, `data:`, `file:`, a path on this server) does not.
fn web_address(address: &str) -> Option<String> {
    let lower = address.to_ascii_lowercase();
    let leads_out = lower.starts_with("https://") || lower.starts_with("http://");
    let is_plain = !address.chars().any(|c| c.is_control() || c.is_whitespace());
    (leads_out && is_plain).then(|| address.to_owned())
}

/// The elements that are open, innermost last. `None` stands for a part that has no element of its own.
struct Tree {
    open: Vec<Option<Element>>,
    n_open: usize,
}

impl Tree {
    fn start(&mut self, element: Option<Element>) {
        let element = element.filter(|_| self.n_open < MAX_DEPTH);
        self.n_open += usize::from(element.is_some());
        self.open.push(element);
    }

    fn end(&mut self) {
        if self.open.len() > 1
            && let Some(Some(element)) = self.open.pop()
        {
            self.n_open -= 1;
            self.inside().push(Node::Element(element));
        }
    }

    /// The children of the innermost open element.
    fn inside(&mut self) -> &mut Vec<Node> {
        let innermost = self.open.iter_mut().rev().flatten().next();
        &mut innermost.expect("the outermost element stays open").children
    }

    fn words(&mut self, words: &str) {
        match self.inside().last_mut() {
            Some(Node::Text(text)) => text.push_str(words),
            _ => self.inside().push(Node::Text(words.to_owned())),
        }
    }

    fn leaf(&mut self, tag: &'static str, words: &str) {
        self.start(Some(Element::new(tag)));
        if !words.is_empty() {
            self.words(words);
        }
        self.end();
    }

    fn finish(mut self) -> Vec<Node> {
        while self.open.len() > 1 {
            self.end();
        }
        self.open.pop().flatten().map(|root| root.children).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        serde_json::to_string(&read(text)).expect("a tree is JSON")
    }

    fn visit(nodes: &[Node], look: &mut impl FnMut(&Element)) {
        for node in nodes {
            if let Node::Element(element) = node {
                look(element);
                visit(&element.children, look);
            }
        }
    }

    #[test]
    fn the_usual_parts_become_elements() {
        assert_eq!(
            json("a *b* **c** `d`"),
            r#"[{"t":"p","c":["a ",{"t":"em","c":["b"]}," ",{"t":"strong","c":["c"]}," ",{"t":"code","c":["d"]}]}]"#
        );
        assert_eq!(
            json("# h\n\n3. x\n4. y"),
            r#"[{"t":"h3","c":["h"]},{"t":"ol","start":3,"c":[{"t":"li","c":["x"]},{"t":"li","c":["y"]}]}]"#
        );
        assert_eq!(json("a\nb"), r#"[{"t":"p","c":["a",{"t":"br"},"b"]}]"#);
        assert_eq!(
            json("|x|\n|-|\n|1|"),
            r#"[{"t":"table","c":[{"t":"tr","c":[{"t":"th","c":["x"]}]},{"t":"tr","c":[{"t":"td","c":["1"]}]}]}]"#
        );
        assert_eq!(json("```rust\nlet x = 1;\n```"), r#"[{"t":"pre","c":["let x = 1;\n"]}]"#);
        assert_eq!(json("- [x] a"), r#"[{"t":"ul","c":[{"t":"li","c":["☑ a"]}]}]"#);
        assert_eq!(json(""), "[]");
    }

    const HOSTILE: [&str; 12] = [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<svg onload=alert(1)><script>alert(1)</script></svg>",
        "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](data:text/html,<script>alert(1)</script>)",
        "<javascript:alert(1)> [a](vbscript:x) [b](file:///etc/passwd) [c](/label.js) [d](//evil.example)",
        "![alt](https://evil.example/track.png) ![x](data:image/svg+xml,<svg/onload=alert(1)>)",
        "[x]: javascript:alert(1)\n\n[x] ![x]",
        "<a href=\"javascript:alert(1)\">x</a>",
        "[x](https://ok.example/\"onmouseover=\"alert(1))",
        "[x](java\tscript:alert(1)) [y](&#106;avascript:alert(1))",
        "<style>*{display:none}</style><iframe srcdoc='<script>alert(1)</script>'>",
        "| <b onclick=alert(1)>x</b> |\n|-|\n| <object data=x> |",
    ];

    #[test]
    fn hostile_texts_make_only_listed_elements_and_web_links() {
        let listed = [
            "p",
            "h3",
            "h4",
            "h5",
            "h6",
            "blockquote",
            "pre",
            "html-text",
            "ul",
            "ol",
            "li",
            "table",
            "tr",
            "th",
            "td",
            "em",
            "strong",
            "del",
            "a",
            "dead-link",
            "image-text",
            "code",
            "br",
            "hr",
        ];
        for text in HOSTILE {
            visit(&read(text), &mut |element| {
                assert!(listed.contains(&element.tag), "{text}: {}", element.tag);
                assert_eq!(element.href.is_some(), element.tag == "a", "{text}");
                let leads_out = element.href.as_deref().is_none_or(|href| href.starts_with("https://"));
                assert!(leads_out, "{text}: {:?}", element.href);
            });
        }
        assert!(json(HOSTILE[0]).contains("<script>alert(1)</script>"), "shown as text");
        assert!(!json(HOSTILE[5]).contains("href"), "an image is no link");
    }

    #[test]
    fn a_large_or_deep_text_is_read_in_time_and_shallow() {
        let started = std::time::Instant::now();
        for piece in [">", "- ", "[", "*a ", "`", "<a ", "![", "|", "&", "1. ", "**_", "\n> - "] {
            let nodes = read(&piece.repeat(200_000 / piece.len()));
            let mut deepest = 0;
            fn depth(nodes: &[Node]) -> usize {
                let inside = |node: &Node| if let Node::Element(element) = node { 1 + depth(&element.children) } else { 0 };
                nodes.iter().map(inside).max().unwrap_or(0)
            }
            deepest = deepest.max(depth(&nodes));
            assert!(deepest <= MAX_DEPTH, "{piece}: {deepest}");
        }
        assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    }
}
