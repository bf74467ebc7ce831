//! Links between pages, without the network.

use std::path::Path;

use super::chapter::Chapter;

/// Every link of a page that leads nowhere, with its place.
pub(super) fn broken(page: &Path) -> Vec<String> {
    let chapter = Chapter::read(page);
    let folder = page.parent().expect("a folder");
    let in_book = folder == super::book_folder();
    let problem = |link: &str| -> Option<String> {
        if let Some((scheme, rest)) = link.split_once(':') {
            let whole = matches!(scheme, "https" | "http") && rest.starts_with("//") && !rest.contains(char::is_whitespace);
            return (!whole).then(|| "not an address".to_owned());
        }
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let target = if file.is_empty() { page.to_owned() } else { folder.join(file) };
        if !target.exists() {
            return Some("there is no such file".to_owned());
        }
        if in_book && file.contains('/') {
            return Some("leads out of the book, where its pages find nothing".to_owned());
        }
        let anchor = anchor?;
        (!Chapter::read(&target).anchors.contains(anchor)).then(|| format!("there is no heading `{anchor}`"))
    };
    let told = |(line, link): &(usize, String)| problem(link).map(|why| format!("{}:{line}: `{link}`: {why}", page.display()));
    chapter.links.iter().filter_map(told).collect()
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let page = dir.path().join("page.md");
    let text = "# One\n\n[a](#one) [b](#two) [c](other.md) [d](page.md#one) [e](https://example.org/x) [f](htps://x)\n";
    std::fs::write(&page, text).expect("written");
    let found = broken(&page);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("no heading `two`") && found[1].contains("no such file") && found[2].contains("not an address"));
}
