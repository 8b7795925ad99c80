//! The functions of a source: what each calls, and which variables outside of it each writes to.
//!
//! Read from the words alone (`reader`); nothing runs. What it cannot see (a function that is kept in a table, a write
//! through another name) it does not report.

use super::reader::Reader;
use super::tokens::tokens;

/// One function; the first of a file is the file itself.
#[derive(Debug, Default)]
pub struct Function {
    pub line: usize,
    pub(super) parent: usize,
    pub(super) calls: Vec<Call>,
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub struct Call {
    /// As if no local name stood for a part of it: `aether.http.get`.
    pub path: String,
    pub line: usize,
    /// The function of this file that is called.
    pub(super) callee: Option<usize>,
}

/// A change of a variable, or of a table in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub name: String,
    pub line: usize,
    /// The function whose local it is; none is a global.
    pub(super) owner: Option<usize>,
}

pub struct Functions(pub(super) Vec<Function>);

impl Functions {
    pub fn read(source: &str) -> Functions {
        Reader::new(&tokens(source)).read()
    }

    /// The functions that begin on a line.
    pub fn at(&self, line: usize) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().skip(1).filter(move |(_, function)| function.line == line).map(|(at, _)| at)
    }

    /// Whether `inner` is `outer` or stands in it.
    fn is_within(&self, mut inner: usize, outer: usize) -> bool {
        while inner != outer {
            if inner == 0 {
                return false;
            }
            inner = self.0[inner].parent;
        }
        true
    }

    /// Everything that runs when `function` does, as far as one can see: what stands in it, and what of this file it calls.
    fn reach(&self, function: usize) -> Vec<usize> {
        let (mut found, mut next) = (Vec::new(), vec![function]);
        while let Some(one) = next.pop() {
            if found.contains(&one) {
                continue;
            }
            found.push(one);
            next.extend((0..self.0.len()).filter(|at| *at != one && self.is_within(*at, one)));
            next.extend(self.0[one].calls.iter().filter_map(|call| call.callee));
        }
        found
    }

    pub fn calls(&self, function: usize) -> Vec<Call> {
        let all = self.reach(function).into_iter().flat_map(|one| self.0[one].calls.clone());
        let mut calls: Vec<_> = all.collect();
        calls.sort_by_key(|call| call.line);
        calls
    }

    /// Writes to what outlives a call of `function`.
    pub fn writes(&self, function: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        for one in self.reach(function) {
            for write in &self.0[one].writes {
                // What a called function has of its own goes with it, too.
                let stays = write
                    .owner
                    .is_none_or(|owner| !(self.is_within(owner, function) || owner != 0 && self.is_within(owner, one)));
                if stays && !writes.contains(write) {
                    writes.push(write.clone());
                }
            }
        }
        writes.sort_by_key(|write| write.line);
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of the function that begins on the first line that has `function(`, as `name:line`.
    fn written(source: &str) -> Vec<String> {
        let functions = Functions::read(source);
        let line = 1 + source.lines().position(|line| line.contains("function(")).unwrap();
        let hook = functions.at(line).next().unwrap();
        functions.writes(hook).into_iter().map(|write| format!("{}:{}", write.name, write.line)).collect()
    }

    fn called(source: &str) -> Vec<String> {
        let functions = Functions::read(source);
        let line = 1 + source.lines().position(|line| line.contains("function(")).unwrap();
        let hook = functions.at(line).next().unwrap();
        functions.calls(hook).into_iter().map(|call| format!("{}:{}", call.path, call.line)).collect()
    }

    #[test]
    fn writes_to_what_is_outside_are_found_and_writes_to_ones_own_are_not() {
        let source = r#"
local count, cache, list = 0, {}, {}
aether.on.publish("a", function(s, ch)
	local own, t: {[string]: number} = 1, {}
	own += 1
	t.x = own
	count += 1
	cache[s.user].last = { count = 1, [2] = 3 }
	table.insert(list, own)
	for i, user in { 1 } do user = i end
	local function inner(a) a = 1; own = 2; cache = nil end
	leak = if own == 1 then 1 else 2
	if own == 2 then own = 3 elseif own == 4 then own = 5 else own = 6 end
	while own < 3 do own = 4 end
	repeat local z = 1 z = 2 until z
	return true
end)
count = 3
"#;
        assert_eq!(written(source), ["count:7", "cache:8", "list:9", "cache:11", "leak:12"]);
    }

    #[test]
    fn an_if_that_is_an_expression_has_no_end() {
        let source = r#"
local n = 0
on(function(s)
	local a = if s then if s.x then 1 else 2 elseif s.y then 3 else if s.z then 4 else 5
	return if a then `{if a then "}" else "{"}` else { x = if a then 1 else 2 }
end)
n = 1
on(function() n = 2 end)
"#;
        let functions = Functions::read(source);
        assert_eq!(functions.0.len(), 3);
        assert_eq!(functions.0[2].parent, 0);
        assert_eq!(written(source), [""; 0]);
    }

    #[test]
    fn calls_are_told_by_their_whole_path_and_followed_within_the_file() {
        let source = r#"
local http, kv = aether.http, aether.kv("x")
local get = http.get
local function ask(user: string): (boolean, string?)
	return http.post("u", { user = user }), get "v"
end
local cached = aether.memo(ask, { ttl = "1m" })
local later = function() ask("x") end
aether.on.publish("a", function(s)
	later()
	kv:get("x")
	return cached(s.user)
end)
"#;
        let source = source.replace("function() ask", "function () ask");
        let line = 1 + source.lines().position(|line| line.contains("on.publish")).unwrap();
        let functions = Functions::read(&source);
        let hook = functions.at(line).next().unwrap();
        let calls: Vec<_> = functions.calls(hook).into_iter().map(|call| (call.path, call.line)).collect();
        for (path, line) in [
            ("aether.http.post", 5),
            ("aether.http.get", 5),
            ("local later", 10),
            ("local kv:get", 11),
            ("aether.memo", 12),
        ] {
            assert!(calls.contains(&(path.to_owned(), line)), "{path} in {calls:?}");
        }
        assert!(called("x(function() string.find(a, b) end)").contains(&"string.find:1".to_owned()));
    }

    #[test]
    fn what_is_no_luau_is_read_to_its_end() {
        for source in [
            "end end end",
            "function",
            "local",
            "for",
            "= = =",
            "a.b.c[",
            ") = 1",
            "if if if",
            "function f(",
            "local x: (",
            "else",
            "until",
        ] {
            Functions::read(source);
        }
    }

    #[test]
    fn the_shipped_files_are_read_as_they_are() {
        for file in ["plugins/jwt-auth/main.lua", "plugins/api-keys/main.lua", "scripts/rules.lua"] {
            let source = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            let functions = Functions::read(&source);
            for (at, function) in functions.0.iter().enumerate().skip(1) {
                assert_eq!(functions.writes(at), [], "{file}:{}", function.line);
            }
        }
    }
}
