// Losses of logits, a row of LEN classes per sample, and their gradients. The loss itself is a sum of one term per row
// (`sum_slices`). Needs samples.cuh.

// terms[row] = −Σ q log p, q = (1 − smoothing) · onehot + smoothing / LEN. A label that is no class gives not a number:
// a kernel cannot report it.
template <int TEAM, uint ROWS, uint LEN>
__device__ void cross_entropy_terms(
    const float* x, const long long* labels, float* terms, float smoothing, uint t, uint n, float* shared
) {
    EACH_ROW(ROWS) {
        const Shift s = shift_of<TEAM, LEN>(x + row * LEN, 1.f, t, shared);
        const float log = logf(s.sum);
        Sum all = no_sum();
        if (smoothing != 0.f) EACH_ENTRY add(all, x[row * LEN + i] - s.top);
        const float mean = team_total<TEAM>(all, shared) / (float)LEN;
        const long long label = labels[row];
        const bool known = label >= 0 && label < (long long)LEN;
        if (t % TEAM == 0) {
            const float hit = known ? x[row * LEN + (uint)label] - s.top : NAN_F;
            terms[row] = log - ((1.f - smoothing) * hit + smoothing * mean);
        }
    }
}

// dx = dl · (p − q) / ROWS
template <int TEAM, uint ROWS, uint LEN>
__device__ void cross_entropy_grad_rows(
    const float* x, const long long* labels, const float* dl, float* dx, float smoothing, uint t, uint n, float* shared
) {
    const float factor = *dl / (float)ROWS, even = smoothing / (float)LEN;
    EACH_ROW(ROWS) {
        const Shift s = shift_of<TEAM, LEN>(x + row * LEN, 1.f, t, shared);
        const long long label = labels[row];
        const bool known = label >= 0 && label < (long long)LEN;
        EACH_ENTRY {
            const float p = expf(x[row * LEN + i] - s.top) / s.sum;
            const float q = (long long)i == label ? (1.f - smoothing) + even : even;
            dx[row * LEN + i] = known ? factor * (p - q) : NAN_F;
        }
    }
}

// Rows of teacher and student at one temperature.
struct Pair {
    Shift teacher, student;
    // Taken from factor · (t − s), gives log p − log q: two logarithms of nearly equal sums would cancel.
    float shift;
};

template <int TEAM, uint LEN>
__device__ __forceinline__ Pair pair_of(const float* p, const float* q, float factor, uint t, float* shared) {
    Pair r;
    r.teacher = shift_of<TEAM, LEN>(p, factor, t, shared);
    r.student = shift_of<TEAM, LEN>(q, factor, t, shared);
    r.shift = (r.teacher.top - r.student.top) + logf(r.teacher.sum / r.student.sum);
    return r;
}

// p, and log p − log q, of one class.
__device__ __forceinline__ float teacher_of(const Pair& r, float x, float factor) {
    return expf(fmaf(factor, x, -r.teacher.top)) / r.teacher.sum;
}
__device__ __forceinline__ float ratio_of(const Pair& r, float p, float q, float factor) {
    return fmaf(factor, p - q, -r.shift);
}

// Σ p (log p − log q). Where a teacher's class has no probability at all it adds nothing.
template <int TEAM, uint LEN>
__device__ __forceinline__ float divergence_of(
    const Pair& r, const float* p, const float* q, float factor, uint t, float* shared
) {
    Sum s = no_sum();
    EACH_ENTRY add(s, teacher_of(r, p[i], factor) * ratio_of(r, p[i], q[i], factor));
    return team_total<TEAM>(s, shared);
}

template <int TEAM, uint ROWS, uint LEN>
__device__ void kl_terms(
    const float* p, const float* q, float* terms, float factor, uint t, uint n, float* shared
) {
    EACH_ROW(ROWS) {
        const Pair r = pair_of<TEAM, LEN>(p + row * LEN, q + row * LEN, factor, t, shared);
        const float d = divergence_of<TEAM, LEN>(r, p + row * LEN, q + row * LEN, factor, t, shared);
        if (t % TEAM == 0) terms[row] = d;
    }
}

// dp = dl · scale · p · (r − Σ p·r), r = log p − log q
template <int TEAM, uint ROWS, uint LEN>
__device__ void kl_grad_teacher_rows(
    const float* p, const float* q, const float* dl, float* dp, float factor, float scale, uint t, uint n, float* shared
) {
    const float outer = *dl * scale;
    EACH_ROW(ROWS) {
        const float *x = p + row * LEN, *y = q + row * LEN;
        const Pair r = pair_of<TEAM, LEN>(x, y, factor, t, shared);
        const float mean = divergence_of<TEAM, LEN>(r, x, y, factor, t, shared);
        EACH_ENTRY dp[row * LEN + i] =
            outer * teacher_of(r, x[i], factor) * (ratio_of(r, x[i], y[i], factor) - mean);
    }
}

// dq = dl · scale · (student's probability − teacher's)
template <int TEAM, uint ROWS, uint LEN>
__device__ void kl_grad_student_rows(
    const float* p, const float* q, const float* dl, float* dq, float factor, float scale, uint t, uint n, float* shared
) {
    const float outer = *dl * scale;
    EACH_ROW(ROWS) {
        const float *x = p + row * LEN, *y = q + row * LEN;
        const Pair r = pair_of<TEAM, LEN>(x, y, factor, t, shared);
        EACH_ENTRY {
            const float student = expf(fmaf(factor, y[i], -r.student.top)) / r.student.sum;
            dq[row * LEN + i] = outer * (student - teacher_of(r, x[i], factor));
        }
    }
}

// terms[slice] = Σ (a − b)² over PER elements
template <uint COUNT, uint PER>
__device__ void squared_error_terms(const float* a, const float* b, float* terms, uint t, uint n) {
    for (uint slice = t / 32; slice * PER < COUNT; slice += n / 32) {
        const uint end = slice * PER + PER < COUNT ? slice * PER + PER : COUNT;
        Sum s = no_sum();
        for (uint i = slice * PER + (t & 31); i < end; i += 32) {
            const float d = a[i] - b[i];
            add(s, d * d);
        }
        const float x = warp_total(s);
        if ((t & 31) == 0) terms[slice] = x;
    }
}
