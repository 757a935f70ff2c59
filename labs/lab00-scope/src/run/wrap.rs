//! Text in lines.

use shared::escaped;

/// The text in lines of at most `width` columns, broken between words where that is possible; further lines begin `hang`
/// columns to the right.
pub fn wrapped(text: &str, width: usize, hang: usize) -> Vec<String> {
    let text: Vec<char> = plain(text).chars().collect();
    let (mut lines, mut rest) = (Vec::new(), &text[..]);
    loop {
        let indent = if lines.is_empty() { 0 } else { hang.min(width / 2) };
        let room = width.saturating_sub(indent).max(1);
        let line = |part: &[char]| format!("{:indent$}{}", "", part.iter().collect::<String>().trim_end());
        if rest.len() <= room {
            lines.push(line(rest));
            return lines;
        }
        // The last blank that leaves something on either side; a word that is longer than the line is cut.
        let blank = (1..=room).rev().find(|at| rest[*at] == ' ' && rest[..*at].iter().any(|scalar| *scalar != ' '));
        let (part, more) = rest.split_at(blank.unwrap_or(room));
        lines.push(line(part));
        let blanks = more.iter().take_while(|scalar| **scalar == ' ').count();
        rest = &more[blanks..];
    }
}

/// A stranger's text: it acts on no terminal, and each of its characters has one column.
pub fn plain(text: &str) -> String {
    let narrow = |scalar: char| match scalar {
        '\0'..'\u{250}' => scalar.to_string(),
        _ => scalar.escape_default().to_string(),
    };
    escaped(text.as_bytes()).chars().map(narrow).collect()
}
