//! Transcripts: files of what is said and what must come back, line by line.

use super::repository;

/// Plays `tests/golden/<name>.txt`. `plays` does what a line says and gives what should stand there, if the line tells of something
/// that the hub said. With `GOLDEN=write` that is written into the file instead.
pub async fn play(name: &str, mut plays: impl AsyncFnMut(&str) -> Option<String>) {
    let path = repository().join(format!("tests/golden/{name}.txt"));
    let written = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut played, rewrites) = (String::new(), std::env::var("GOLDEN").as_deref() == Ok("write"));
    for (number, line) in written.lines().enumerate() {
        let said = plays(line).await.unwrap_or_else(|| line.to_owned());
        assert!(rewrites || said == line, "{name}.txt:{}\n  written {line}\n  said    {said}", number + 1);
        played += &format!("{said}\n");
    }
    if rewrites {
        std::fs::write(&path, played).unwrap();
    }
}
