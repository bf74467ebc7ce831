//! Builds the book of `docs/` with a pinned mdBook, and checks every link of the pages that come out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{Workshop, run};
use crate::failure::{Failure, Result};

/// The mdBook that builds the book; `book.toml` is written for it.
const MDBOOK: &str = "0.5.4";

/// Builds the book and gives its folder.
pub(crate) fn build(workshop: &Workshop) -> Result<PathBuf> {
    let program = mdbook(workshop)?;
    run("mdbook", Command::new(program).arg("build").current_dir(&workshop.places.root))?;
    let folder = workshop.places.root.join("target/book");
    let broken = broken_links(&folder)?;
    if broken.is_empty() {
        return Ok(folder);
    }
    Err(Failure::new(format!("{} links of the book lead nowhere:\n{}", broken.len(), broken.join("\n"))))
}

/// The program: the one on the path where it is of this version, otherwise one of our own, compiled once.
fn mdbook(workshop: &Workshop) -> Result<PathBuf> {
    let is_ours = |program: &Path| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == format!("mdbook v{MDBOOK}"))
    };
    let tools = workshop.places.cache.clone().unwrap_or_else(|| workshop.places.root.join("target")).join("tools");
    let own = tools.join("bin/mdbook");
    if let Some(found) = [PathBuf::from("mdbook"), own.clone()].into_iter().find(|program| is_ours(program)) {
        return Ok(found);
    }
    eprintln!("compiling mdBook {MDBOOK} into `{}`, once: about a minute", tools.display());
    let version = format!("={MDBOOK}");
    let mut install = workshop.cargo([
        "install",
        "mdbook",
        "--debug",
        "--locked",
        "--no-default-features",
        "--features",
        "search",
        "--version",
        &version,
    ]);
    run("the installation of mdBook", install.arg("--root").arg(&tools))?;
    Ok(own)
}

/// A page as far as links are concerned.
#[derive(Debug, Default, PartialEq)]
struct Page {
    ids: BTreeSet<String>,
    links: Vec<String>,
}

impl Page {
    fn read(html: &str) -> Self {
        let ids = attributes(html, "id").map(str::to_owned).collect();
        let links = ["href", "src"].into_iter().flat_map(|name| attributes(html, name)).map(str::to_owned).collect();
        Self { ids, links }
    }
}

/// The values of an attribute in a page.
fn attributes<'a>(html: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let places: Vec<usize> = html.match_indices(&start).map(|(at, found)| at + found.len()).collect();
    places.into_iter().filter_map(|at| html[at..].split('"').next())
}

/// Every link between files of the folder that leads nowhere, as `page: link`.
fn broken_links(folder: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))? {
        let path = entry.map_err(|error| Failure::io("read", folder, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The page for what is not found is served below any path, and the one to print repeats the others.
        if name.ends_with(".html") && !matches!(name.as_str(), "404.html" | "print.html") {
            let html = fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
            pages.insert(name, Page::read(&html));
        }
    }
    if pages.len() < 2 {
        return Err(Failure::new(format!("`{}` holds no book", folder.display())));
    }
    let exists = |file: &str| folder.join(file).exists();
    Ok(pages.iter().flat_map(|(name, page)| broken_links_of(name, page, &pages, &exists)).collect())
}

fn broken_links_of(name: &str, page: &Page, pages: &BTreeMap<String, Page>, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let leads_nowhere = |link: &&String| {
        if link.contains("://") || ["data:", "mailto:", "javascript:"].iter().any(|scheme| link.starts_with(scheme)) {
            return false;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let file = if file.is_empty() { name } else { file };
        let anchored = anchor.is_empty() || pages.get(file).is_none_or(|page| page.ids.contains(&decoded(anchor)));
        !exists(file) || !anchored
    };
    page.links.iter().filter(leads_nowhere).map(|link| format!("{name}: {link}")).collect()
}

/// `%C3%A9` and its like as characters.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_missing_files_and_headings_are_found() {
        let page = Page::read(
            r##"<h1 id="a-é"><a href="#a-%C3%A9">x</a></h1> <a href="b.html#two">y</a> <a href="b.html#one">y</a>
            <img src="missing.svg"> <a href="https://example.org/#z">z</a>"##,
        );
        let other = Page::read(r#"<h1 id="one">One</h1>"#);
        let pages = BTreeMap::from([("a.html".to_owned(), page), ("b.html".to_owned(), other)]);
        let exists = |file: &str| file.ends_with(".html");
        let found = broken_links_of("a.html", &pages["a.html"], &pages, &exists);
        assert_eq!(found, ["a.html: b.html#two", "a.html: missing.svg"]);
    }
}
