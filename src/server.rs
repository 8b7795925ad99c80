//! A placeholder, so that the command line compiles.

pub fn run(config: crate::config::Config) -> anyhow::Result<()> {
    let keys = crate::keys::Keys::prepare(&config)?;
    print!("{}", crate::banner::banner(config.server.addr, keys.admin_key(), keys.demo_token()));
    Ok(())
}
