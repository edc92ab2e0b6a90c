//! The log (placeholder until its thread lands).
use crate::config::settings::LogSettings;
struct Plain;
impl log::Log for Plain {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    #[allow(clippy::print_stderr, reason = "placeholder")]
    fn log(&self, r: &log::Record<'_>) {
        if r.target().starts_with("dot_proxy") || r.level() <= log::Level::Warn {
            eprintln!("{}: {}", r.level().as_str().to_lowercase(), r.args());
        }
    }
    fn flush(&self) {}
}
/// The thread that writes log lines.
pub struct LogThread;
impl LogThread {
    /// Starts it.
    pub fn start(settings: &LogSettings) -> std::io::Result<LogThread> {
        let _ = log::set_logger(&Plain);
        log::set_max_level(settings.level);
        Ok(LogThread)
    }
    /// Ends it.
    pub fn finish(self) {}
}
