//! What a further process in a container is, from what the user wrote and what the container's own process is. Pure.

use hull_protocol::agent::ProcessSpec;
use hull_protocol::exec::ExecSpec;

use super::{PlanError, check_words, merge_env};

/// Resolves a further process with this id, beside `container`, the container's own.
///
/// # Errors
/// When there is nothing to run, or something in it cannot be.
pub fn exec_process(id: String, spec: &ExecSpec, container: &ProcessSpec) -> Result<ProcessSpec, PlanError> {
    if spec.command.is_empty() {
        return Err(PlanError::Invalid("no command: name the program to run".into()));
    }
    let env = merge_env(&container.env, &spec.env)?;
    check_words(&spec.command, &env)?;
    let workdir = spec.workdir.clone().unwrap_or_else(|| container.workdir.clone());
    if !workdir.starts_with('/') {
        return Err(PlanError::Invalid(format!("the working directory '{workdir}' is not absolute")));
    }
    Ok(ProcessSpec {
        id,
        args: spec.command.clone(),
        env,
        workdir,
        user: spec.user.clone().unwrap_or_else(|| container.user.clone()),
        terminal: spec.terminal,
        stdin: spec.stdin,
        capabilities: container.capabilities.clone(),
        rlimits: container.rlimits.clone(),
        no_new_privileges: container.no_new_privileges,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn container() -> ProcessSpec {
        ProcessSpec {
            id: "main".into(),
            args: vec!["serve".into()],
            env: vec!["A=1".into(), "B=2".into()],
            workdir: "/srv".into(),
            user: "web".into(),
            terminal: None,
            stdin: false,
            capabilities: vec!["CHOWN".into()],
            rlimits: Vec::new(),
            no_new_privileges: true,
        }
    }

    #[test]
    fn it_is_as_the_container_but_for_what_the_user_says() {
        let spec = ExecSpec { command: vec!["ls".into()], ..ExecSpec::default() };
        let expected = ProcessSpec { id: "x".into(), args: vec!["ls".into()], ..container() };
        assert_eq!(exec_process("x".into(), &spec, &container()).unwrap(), expected);
        let spec = ExecSpec {
            env: vec!["B=3".into(), "C=4".into()],
            workdir: Some("/tmp".into()),
            user: Some("0:0".into()),
            stdin: true,
            ..spec
        };
        let process = exec_process("x".into(), &spec, &container()).unwrap();
        assert_eq!(process.env, ["A=1", "B=3", "C=4"]);
        assert_eq!((process.workdir.as_str(), process.user.as_str(), process.stdin), ("/tmp", "0:0", true));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let spec = |change: fn(&mut ExecSpec)| {
            let mut spec = ExecSpec { command: vec!["ls".into()], ..ExecSpec::default() };
            change(&mut spec);
            exec_process("x".into(), &spec, &container()).unwrap_err().to_string()
        };
        assert!(spec(|spec| spec.command.clear()).contains("no command"));
        assert!(spec(|spec| spec.workdir = Some("srv".into())).contains("'srv' is not absolute"));
        assert!(spec(|spec| spec.env.push("=x".into())).contains("write NAME=value"));
        assert!(spec(|spec| spec.command.push("a\0b".into())).contains("NUL"));
        assert!(spec(|spec| spec.command.push("x".repeat(2 << 20))).contains("more than"));
    }
}
