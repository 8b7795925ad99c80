//! What the figures were measured on.

use serde_json::{Value as Json, json};

pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub kernel: String,
}

impl Machine {
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let kernel = format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim());
        Machine { cores: std::thread::available_parallelism().map_or(1, usize::from), processor, kernel }
    }

    pub fn json(&self) -> Json {
        json!({ "cores": self.cores, "processor": self.processor, "kernel": self.kernel })
    }

    pub fn text(&self) -> String {
        format!("{} cores ({}), {}", self.cores, self.processor, self.kernel)
    }
}
