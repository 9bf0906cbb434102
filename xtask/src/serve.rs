//! `cargo xtask web --serve`: a folder on this machine's own address, for trying a page out. Answers what browsers and
//! downloads ask for: GET and HEAD, one range, and whether a file is still the same.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::Failure;

/// What web/index.html says of itself. A Worker goes by the header of its own file alone.
const POLICY: &str = "Content-Security-Policy: default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; \
    connect-src 'self' https:; img-src 'self' blob: data:; worker-src 'self'";

/// Where pages are served unless somebody says otherwise.
pub const PORT: u16 = 8000;

/// Serves `folder` below the path `base` until the process ends.
///
/// # Errors
/// When the port is taken.
pub fn serve(folder: &Path, base: &str, port: u16) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|e| format!("cannot listen on port {port}: {e}; give another one: cargo xtask web --serve PORT"))?;
    let port = listener.local_addr().map_or(port, |address| address.port());
    println!("http://127.0.0.1:{port}{base} (Ctrl+C ends it)");
    for stream in listener.incoming().flatten() {
        let (folder, base) = (folder.to_path_buf(), base.to_owned());
        // A visitor who leaves in the middle is no error of ours.
        std::thread::spawn(move || answer(&folder, &base, stream).ok());
    }
    Ok(())
}

/// One request, one answer.
fn answer(folder: &Path, base: &str, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new((&stream).take(16 << 10)).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (mut range, mut known, mut condition) = (None, None, None);
    for line in lines {
        let line = line?;
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            Some((name, value)) if name == "range" => range = Some(value.to_owned()),
            Some((name, value)) if name == "if-none-match" => known = Some(value.to_owned()),
            Some((name, value)) if name == "if-range" => condition = Some(value.to_owned()),
            None if line.is_empty() => break,
            _ => {}
        }
    }
    if method != "GET" && method != "HEAD" {
        return head(&mut stream, "405 Method Not Allowed", &["Allow: GET, HEAD", "Content-Length: 0"]);
    }
    let opened = local(folder, base, &target).and_then(|path| Some((File::open(&path).ok()?, path)));
    let Some((mut file, path)) = opened.filter(|(_, path)| path.is_file()) else {
        return head(&mut stream, "404 Not Found", &["Content-Length: 0"]);
    };
    let metadata = file.metadata()?;
    let (length, changed) = (metadata.len(), metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default());
    let tag = format!("\"{length:x}-{:x}\"", changed.as_nanos());
    let (kind, etag) = (format!("Content-Type: {}", mime(&path)), format!("ETag: {tag}"));
    // Pages are built again and again: asked for every time, sent when changed.
    let common = [kind.as_str(), &etag, POLICY, "Accept-Ranges: bytes", "Cache-Control: no-cache"];
    if known.is_some_and(|known| known == tag) {
        return head(&mut stream, "304 Not Modified", &common);
    }
    // A part of another version is of no use: all of this one is the answer.
    let range = range.filter(|_| condition.is_none_or(|condition| condition == tag));
    let (status, start, end) = match range.as_deref().map(|range| wanted(range, length)) {
        None | Some(Range::Whole) => ("200 OK", 0, length),
        Some(Range::Part(start, end)) => ("206 Partial Content", start, end),
        Some(Range::Beyond) => {
            let size = format!("Content-Range: bytes */{length}");
            return head(&mut stream, "416 Range Not Satisfiable", &[&size, "Content-Length: 0"]);
        }
    };
    let size = format!("Content-Length: {}", end - start);
    let part = format!("Content-Range: bytes {start}-{}/{length}", end.saturating_sub(1));
    let own: &[&str] = if status.starts_with("206") { &[&size, &part] } else { &[&size] };
    head(&mut stream, status, &[&common, own].concat())?;
    if method == "GET" {
        file.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut file.take(end - start), &mut stream)?;
    }
    Ok(())
}

fn head(stream: &mut TcpStream, status: &str, fields: &[&str]) -> std::io::Result<()> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\r\n")
}

/// The file that a request's target names; `None` for whatever is not plainly a path below the folder.
fn local(folder: &Path, base: &str, target: &str) -> Option<PathBuf> {
    let path = decoded(target.split(['?', '#']).next()?.strip_prefix(base)?)?;
    let mut found = folder.to_path_buf();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with('.') || part.contains(['\\', ':', '\0']) {
            return None;
        }
        found.push(part);
    }
    Some(if path.is_empty() || path.ends_with('/') { found.join("index.html") } else { found })
}

/// Without `%20` and the like.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = if byte == b'%' { digit(rest.next())? * 16 + digit(rest.next())? } else { byte.into() };
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[derive(Debug, PartialEq)]
enum Range {
    /// No range that we understand: then the whole file is the answer.
    Whole,
    /// From, up to.
    Part(u64, u64),
    Beyond,
}

/// `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` of a file of `length` bytes.
fn wanted(range: &str, length: u64) -> Range {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else { return Range::Whole };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(length)),
        (Ok(first), Err(_)) if last.is_empty() => (first, length),
        (Err(_), Ok(count)) if first.is_empty() => (length.saturating_sub(count), length),
        _ => return Range::Whole,
    };
    if start < end { Range::Part(start, end) } else { Range::Beyond }
}

fn mime(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "wasm" => "application/wasm",
        "txt" | "md" | "ts" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes=0-9", Range::Part(0, 10)),
            ("bytes=90-", Range::Part(90, 100)),
            ("bytes=90-200", Range::Part(90, 100)),
            ("bytes=-5", Range::Part(95, 100)),
            ("bytes=100-", Range::Beyond),
            ("bytes=-0", Range::Beyond),
            ("bytes=9-0", Range::Whole),
            ("bytes=0-1,5-6", Range::Whole),
            ("lines=1-2", Range::Whole),
        ] {
            assert_eq!(wanted(text, 100), expected, "{text}");
        }
    }

    #[test]
    fn targets_stay_in_the_folder() {
        let folder = Path::new("/site");
        for (target, expected) in [
            ("/", "/site/index.html"),
            ("/app/", "/site/app/index.html"),
            ("/a%20b.js?x=1", "/site/a b.js"),
            ("//etc/passwd", "/site/etc/passwd"),
        ] {
            assert_eq!(local(folder, "/", target).as_deref(), Some(Path::new(expected)), "{target}");
        }
        for target in ["/../x", "/a/../../x", "/%2e%2e/x", "/..%2fx", "/c:x", "/a\\b", "x", "/%zz", "/%"] {
            assert_eq!(local(folder, "/", target), None, "{target}");
        }
    }

    #[test]
    fn pages_lie_below_their_base() {
        let folder = Path::new("/site");
        assert_eq!(local(folder, "/some/", "/some/app/a.js").as_deref(), Some(Path::new("/site/app/a.js")));
        assert_eq!(local(folder, "/some/", "/some/").as_deref(), Some(Path::new("/site/index.html")));
        for target in ["/", "/some", "/app/a.js", "/something/a.js"] {
            assert_eq!(local(folder, "/some/", target), None, "{target}");
        }
    }

    /// What the server answers.
    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        write!(stream, "{request}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_policy_is_the_pages_own() {
        let page = std::fs::read_to_string(crate::root().join("web/index.html")).unwrap();
        let policy = POLICY.strip_prefix("Content-Security-Policy: ").unwrap();
        assert!(
            page.contains(&format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">")),
            "{policy}"
        );
    }

    #[test]
    fn files_are_sent() {
        let folder = std::env::temp_dir().join(format!("portray-xtask-serve-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.js"), "0123456789").unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let site = folder.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|s| answer(&site, "/", s).unwrap()));

        let whole = ask(port, "GET /a.js HTTP/1.1");
        assert!(whole.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/javascript"), "{whole}");
        assert!(whole.ends_with("\r\n\r\n0123456789"), "{whole}");
        assert!(whole.contains(POLICY), "{whole}");
        let tag = whole.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
        let same = ask(port, &format!("GET /a.js HTTP/1.1\r\nIf-None-Match: {tag}"));
        assert!(same.starts_with("HTTP/1.1 304") && same.ends_with("\r\n\r\n"), "{same}");
        let part = ask(port, "GET /a.js HTTP/1.1\r\nRange: bytes=2-4");
        assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n\r\n234"), "{part}");
        assert!(part.contains("\r\nContent-Range: bytes 2-4/10\r\n"), "{part}");
        for (condition, status) in [(tag, "206"), ("\"another\"", "200")] {
            let answer = ask(port, &format!("GET /a.js HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: {condition}"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{condition}: {answer}");
        }
        assert!(ask(port, "HEAD /a.js HTTP/1.1").ends_with("Connection: close\r\n\r\n"));
        assert!(ask(port, "GET /b.js HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert!(ask(port, "GET / HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert!(ask(port, "PUT /a.js HTTP/1.1").starts_with("HTTP/1.1 405"));
        assert!(ask(port, "GET /a.js HTTP/1.1\r\nRange: bytes=10-").starts_with("HTTP/1.1 416"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
