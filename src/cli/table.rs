//! Columns for people, and numbers in units they read.

/// Lines of `rows`, the first column left-aligned and the others right-aligned, two spaces apart.
pub fn lines(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(c, (cell, &w))| if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `1.73 GB`: decimal multiples.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &[("GB", 1e9), ("MB", 1e6), ("kB", 1e3)], "B")
}

/// `804 GFLOP`.
pub fn flops(n: f64) -> String {
    scaled(n, &[("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)], "FLOP")
}

/// `5.88 M`.
pub fn count(n: usize) -> String {
    scaled(n as f64, &[("G", 1e9), ("M", 1e6), ("k", 1e3)], "").trim_end().to_owned()
}

/// `1:02:03`, `4:05`, `7.3 s`.
pub fn seconds(s: f64) -> String {
    let whole = s.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{s:.1} s"),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02} h", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

fn scaled(n: f64, units: &[(&str, f64)], one: &str) -> String {
    let (unit, factor) = units.iter().find(|(_, f)| n >= *f).copied().unwrap_or((one, 1.0));
    let x = n / factor;
    let digits = if factor == 1.0 { 0 } else { 2usize.saturating_sub(x.max(1.0).log10() as usize) };
    format!("{x:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_730_000_000), "1.73 GB");
        assert_eq!(bytes(11_797_224), "11.8 MB");
        assert_eq!(count(5_880_068), "5.88 M");
        assert_eq!(flops(804e9), "804 GFLOP");
        assert_eq!(seconds(7.25), "7.2 s");
        assert_eq!(seconds(245.0), "4:05 min");
        assert_eq!(seconds(3723.0), "1:02:03 h");
    }

    #[test]
    fn columns_align() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["long".into(), "5".into()]];
        assert_eq!(lines(&rows), ["a     10", "long   5"]);
    }
}
