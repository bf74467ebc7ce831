//! A chapter taken apart: its blocks, links, headings and the code in its sentences.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The book's source.
pub(super) fn book_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// A fenced block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    /// Its first line in the file, the fence's, from 1.
    pub(super) line: usize,
    pub(super) language: String,
    /// Words behind the language, with the value behind `=`.
    pub(super) marks: Vec<(String, String)>,
    /// Its text, includes expanded.
    pub(super) text: String,
    /// The files, from the repository's root, that are all its text; none where it has text of its own.
    pub(super) includes: Vec<String>,
    /// Shell commands of the comment `<!-- given … -->` before it: what a reader has before the block.
    pub(super) given: Option<String>,
}

impl Block {
    pub(super) fn has(&self, mark: &str) -> bool {
        self.marks.iter().any(|(name, _)| name == mark)
    }

    pub(super) fn value(&self, mark: &str) -> Option<&str> {
        self.marks.iter().find(|(name, _)| name == mark).map(|(_, value)| value.as_str())
    }
}

/// What there is in a page of Markdown. Places are line numbers, from 1.
#[derive(Debug, Default)]
pub(super) struct Chapter {
    pub(super) blocks: Vec<Block>,
    /// Targets of links and images.
    pub(super) links: Vec<(usize, String)>,
    /// What `#…` may lead to.
    pub(super) anchors: BTreeSet<String>,
    /// Code in sentences.
    pub(super) spans: Vec<(usize, String)>,
}

impl Chapter {
    #[track_caller]
    pub(super) fn read(path: &Path) -> Self {
        let source = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let line_at = |offset: usize| source[..offset].matches('\n').count() + 1;
        let mut chapter = Self::default();
        let (mut heading, mut block, mut comment) = (None::<String>, None::<Block>, String::new());
        for (event, range) in Parser::new_ext(&source, Options::ENABLE_TABLES).into_offset_iter() {
            let line = line_at(range.start);
            match event {
                Event::Start(Tag::HtmlBlock) => comment.clear(),
                Event::Html(text) => comment.push_str(&text),
                Event::Start(Tag::CodeBlock(kind)) => {
                    let given = comment.trim().strip_prefix("<!-- given\n").and_then(|text| text.strip_suffix("-->"));
                    block = Some(Block { given: given.map(str::to_owned), ..new_block(line, &kind) });
                    comment.clear();
                }
                Event::End(TagEnd::CodeBlock) => {
                    let block = block.take().expect("it was begun");
                    chapter.blocks.push(expand(block, path));
                }
                Event::Text(text) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    }
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    chapter.spans.push((line, code.into_string()));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => chapter.add_anchor(&heading.take().expect("it was begun")),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    chapter.links.push((line, dest_url.into_string()));
                }
                _ => {}
            }
        }
        chapter
    }

    /// As mdBook names headings: letters, digits, `_` and `-` in lower case, spaces as `-`; a second one of a name gets a number.
    fn add_anchor(&mut self, heading: &str) {
        let kept = |c: char| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => c.to_lowercase().next(),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        };
        let name: String = heading.trim().chars().filter_map(kept).collect();
        let numbered = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.anchors.contains(name));
        self.anchors.extend(free);
    }
}

fn new_block(line: usize, kind: &CodeBlockKind<'_>) -> Block {
    let info = match kind {
        CodeBlockKind::Fenced(info) => info.as_ref(),
        CodeBlockKind::Indented => "",
    };
    let mut words = info.split(',').map(str::trim);
    let language = words.next().unwrap_or_default().to_owned();
    let mark = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    Block { line, language, marks: words.map(mark).collect(), text: String::new(), includes: Vec::new(), given: None }
}

/// Puts the text of files in the place of `{{#include FILE}}` and `{{#include FILE:ANCHOR}}`.
#[track_caller]
fn expand(block: Block, chapter: &Path) -> Block {
    if !block.text.contains("{{#include ") {
        return block;
    }
    let (mut text, mut files) = (String::new(), Vec::new());
    for line in block.text.lines() {
        let include = line.trim().strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}"));
        let Some(include) = include else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (file, anchor) = include.split_once(':').map_or((include, None), |(file, anchor)| (file, Some(anchor)));
        let path = chapter.parent().expect("a folder").join(file);
        let place = || format!("{}:{}: `{include}`", chapter.display(), block.line);
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", place()));
        let part = match anchor {
            None => source,
            Some(anchor) => part_of(&source, anchor).unwrap_or_else(|| panic!("{}: no such anchor", place())),
        };
        text.push_str(&part);
        files.extend(file.strip_prefix("../").map(str::to_owned));
    }
    let includes = if files.len() == block.text.lines().count() { files } else { Vec::new() };
    Block { text, includes, ..block }
}

/// The lines between `ANCHOR: name` and `ANCHOR_END: name`, without other such marks.
fn part_of(source: &str, anchor: &str) -> Option<String> {
    let mut lines = source.lines().skip_while(|line| !line.trim_end().ends_with(&format!("ANCHOR: {anchor}"))).skip(1).peekable();
    lines.peek()?;
    let inside: Vec<&str> =
        lines.by_ref().take_while(|line| !line.trim_end().ends_with(&format!("ANCHOR_END: {anchor}"))).collect();
    let shown = inside.into_iter().filter(|line| !line.contains("ANCHOR: ") && !line.contains("ANCHOR_END: "));
    Some(shown.map(|line| format!("{line}\n")).collect())
}

#[test]
fn what_is_given_belongs_to_the_next_block_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let page = dir.path().join("page.md");
    let text = "Text.\n\n<!-- given\nmkdir a\nls > b\n-->\n\n```console\n$ ls\n```\n\n<!-- else -->\n\n```console\n$ ls\n```\n";
    std::fs::write(&page, text).expect("written");
    let given: Vec<Option<String>> = Chapter::read(&page).blocks.into_iter().map(|block| block.given).collect();
    assert_eq!(given, [Some("mkdir a\nls > b\n".to_owned()), None]);
}

#[test]
fn headings_are_named_as_mdbook_names_them() {
    let mut chapter = Chapter::default();
    for heading in ["Length control", "What `--lc-data` does: a *test*", "Length control"] {
        chapter.add_anchor(heading);
    }
    let names: Vec<&str> = chapter.anchors.iter().map(String::as_str).collect();
    assert_eq!(names, ["length-control", "length-control-1", "what---lc-data-does-a-test"]);
}

#[test]
fn a_part_of_a_file_is_what_stands_between_its_marks() {
    let source = "a\n// ANCHOR: x\nb\n// ANCHOR: y\nc\n// ANCHOR_END: y\n// ANCHOR_END: x\nd\n";
    assert_eq!(part_of(source, "x").as_deref(), Some("b\nc\n"));
    assert_eq!(part_of(source, "y").as_deref(), Some("c\n"));
    assert_eq!(part_of(source, "z"), None);
}
