//! One thread for everything: inputs are small, and handing one to a pool of threads takes longer than to check it.

/// Makes the calling thread the only one of rayon's pool.
pub(crate) fn one_thread() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("nothing has used the pool before");
}
