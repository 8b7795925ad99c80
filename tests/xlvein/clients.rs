//! A program written as xlvein's README tells its users to: its SDK's steps, in Python.

use std::process::Command;

use super::*;
use crate::real_clients::python;

#[tokio::test]
async fn a_chat_of_two_users_and_a_back_end_in_python_needs_no_change() {
    let Some(home) = python() else { return };
    let hub = plan("").start();
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", home).arg(home.join("xlvein_chat.py"));
    command.args([&format!("http://{}", hub.address), "test", SECRET]);
    let mut program = Program::start(&mut command);
    assert_eq!(program.end().await, Some(0), "{}", program.err());
    assert_eq!(
        program.out(),
        [
            "refused 1000 错误的Token",
            "pushed 0",
            "alice: system says {'text': 'welcome, 爱丽丝'}",
            "alice: bob says {'text': 'hi alice'}",
            "bob: alice says {'text': 'hi bob'}",
            "offline 0",
            "forged 1002",
            "done"
        ]
    );
}
