//! The kernel as text, which the driver compiles: one thread that spins for so many nanoseconds of the GPU's own timer.
//!
//! Time, not clock cycles: a GPU changes its clock as it likes. The end is stored, so that no compiler finds the loop to
//! be for nothing.

/// The kernel's name in [`SPIN`], with C's end.
pub const NAME: &str = "spin\0";
/// For every GPU since Maxwell, with C's end.
pub const SPIN: &str = "\
.version 6.0
.target sm_50
.address_size 64

.visible .entry spin(.param .u64 nanoseconds, .param .u64 end)
{
    .reg .u64 %limit;
    .reg .u64 %to;
    .reg .u64 %begin;
    .reg .u64 %now;
    .reg .u64 %spent;
    .reg .pred %more;
    ld.param.u64 %limit, [nanoseconds];
    ld.param.u64 %to, [end];
    cvta.to.global.u64 %to, %to;
    mov.u64 %begin, %globaltimer;
again:
    mov.u64 %now, %globaltimer;
    sub.u64 %spent, %now, %begin;
    setp.lt.u64 %more, %spent, %limit;
    @%more bra again;
    st.global.u64 [%to], %now;
    ret;
}
\0";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn the_text_ends_as_c_wants_and_has_the_kernel() {
        let text = CStr::from_bytes_with_nul(SPIN.as_bytes()).unwrap().to_str().unwrap();
        let name = CStr::from_bytes_with_nul(NAME.as_bytes()).unwrap().to_str().unwrap();
        assert!(text.is_ascii() && text.contains(&format!(".visible .entry {name}(")));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn every_register_label_and_parameter_is_declared_and_used() {
        let names = |line: &str| -> Vec<String> {
            let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '%' || c == '_'));
            words.filter(|word| word.starts_with('%')).map(str::to_owned).collect()
        };
        let (declared, used): (Vec<&str>, Vec<&str>) =
            SPIN.lines().partition(|line| line.trim_start().starts_with(".reg"));
        let declared: BTreeSet<String> = declared.into_iter().flat_map(names).collect();
        let mut used: BTreeSet<String> = used.into_iter().flat_map(names).collect();
        assert!(used.remove("%globaltimer"), "the GPU's timer");
        assert_eq!(used, declared);
        assert!(SPIN.contains("again:\n") && SPIN.contains("bra again;"));
        for parameter in ["nanoseconds", "end"] {
            assert!(
                SPIN.contains(&format!(".param .u64 {parameter}"))
                    && SPIN.contains(&format!("[{parameter}]"))
            );
        }
    }
}
