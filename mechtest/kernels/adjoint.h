/* How do gradients go back through a scan: chunk by chunk, from checkpoints?
 *
 * The end of segments.c. Each chunk of rows is run again from the state before it, this time keeping
 * its states, and then walked from its last row to its first.
 */
/* Gradients of what a scan gave (0: none), and where those of its inputs go. B and C have one sum
 * for each SLAB of channels; B, C, decay and D start as zeros. */
typedef struct {
    const float *out, *end, *kept;
    float *x, *delta, *decay, *B, *C, *h_start, *D, *gate;
} Gradients;

#define SLAB 256
#define LN_2 0.693147181f

/* What a chunk of rows has for each row, and for each row and state. */
typedef struct {
    vec x[CHUNK], delta[CHUNK], write[CHUNK], y[CHUNK], d_y[CHUNK], d_x[CHUNK];
    vec *states, *factors, *d_state, *d_decay, *for_B, *for_C;
} Chunk;
#define CHUNK_VECTORS(n_state) ((2 * CHUNK + 5) * (n_state))

/* Run a chunk again, this time remembering its states. */
INLINE void rerun(const Scan *a, Chunk *c, int64_t from, int64_t past, int read_only, int64_t e,
                  int n, int n_state) {
    for (int64_t t = from, r = 0; t < past; t++, r++) {
        vec step = load(a->delta + t * a->delta_stride + e, n);
        c->delta[r] = a->softplus ? softplus_(step) : step;
        c->x[r] = load(a->x + t * a->x_stride + e, n);
        c->write[r] = c->delta[r] * c->x[r];
    }
    for (int64_t t = from, r = 0; t < past; t++, r++) {
        const float *B = a->B + t * a->B_stride, *C = a->C + t * a->C_stride;
        vec *h = c->states + r * n_state, *factor = c->factors + r * n_state;
        vec read[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
        FOR_STATES(i, n_state, {
            vec next = h[i];
            if (!(read_only && r == 0)) {
                factor[i] = exp2_(c->delta[r] * load(a->decay + i * a->width + e, n));
                next = fma_(factor[i], next, c->write[r] * all(B[i]));
            }
            h[i + n_state] = next;
            read[i & 3] = fma_(all(C[i]), next, read[i & 3]);
        });
        c->y[r] = (read[0] + read[1]) + (read[2] + read[3]);
    }
}

/* Through the gate, row by row: the gradients of y, of x by the skip, of D and of the gate. */
INLINE void gate_adjoint(const Scan *a, const Gradients *g, Chunk *c, int64_t from, int64_t past,
                         int64_t e, int n) {
    vec d_D = all(0.0f);
    for (int64_t t = from, r = 0; t < past; t++, r++) {
        vec d_out = g->out ? load(g->out + t * a->width + e, n) : all(0.0f);
        c->d_y[r] = d_out;
        c->d_x[r] = all(0.0f);
        if (!a->gate) continue;
        vec gate = load(a->gate + t * a->gate_stride + e, n), D = load(a->D + e, n);
        vec open = sigmoid_(gate), silu = silu_(gate);
        vec slope = open * fma_(gate, all(1.0f) - open, all(1.0f));
        store(g->gate + t * a->width + e, d_out * fma_(D, c->x[r], c->y[r]) * slope, n);
        c->d_y[r] = d_out * silu;
        c->d_x[r] = c->d_y[r] * D;
        d_D = fma_(c->d_y[r], c->x[r], d_D);
    }
    if (a->gate) store(g->D + e, load(g->D + e, n) + d_D, n);
}

/* Ask for what row t of the next vector of channels needs, while this one is computed. */
INLINE void fetch_row(const Scan *a, const Gradients *g, int64_t t, int64_t next) {
    __builtin_prefetch(a->x + t * a->x_stride + next);
    __builtin_prefetch(a->delta + t * a->delta_stride + next);
    __builtin_prefetch(g->x + t * a->width + next, 1);
    __builtin_prefetch(g->delta + t * a->width + next, 1);
    if (g->out) __builtin_prefetch(g->out + t * a->width + next);
    if (!a->gate) return;
    __builtin_prefetch(a->gate + t * a->gate_stride + next);
    __builtin_prefetch(g->gate + t * a->width + next, 1);
}

INLINE void fetch_states(const Scan *a, const Gradients *g, int64_t s, const float *before,
                         const float *after, int64_t next) {
    for (int64_t i = 0; i < a->n_state; i++) {
        const int64_t row = i * a->width + next;
        __builtin_prefetch(before + row);
        __builtin_prefetch(a->decay + row);
        __builtin_prefetch(g->decay + row, 1);
        __builtin_prefetch(g->h_start + s * a->width * a->n_state + row, 1);
        if (after) __builtin_prefetch(after + s * a->width * a->n_state + row);
    }
}

INLINE void adjoint_lanes(const Scan *a, const Gradients *g, Chunk *c, int64_t s, int64_t from,
                          int64_t past, int read_only, int64_t keep_past, const float *before,
                          int64_t e, int n, int n_state) {
    const int64_t plane = a->width * n_state, slab = e / SLAB * a->n_rows;
    const int is_last = past == a->starts[s + 1];
    const float *after = is_last ? g->end : g->h_start;
    FOR_STATES(i, n_state, {
        c->states[i] = load(before + i * a->width + e, n);
        c->d_state[i] = after ? load(after + s * plane + i * a->width + e, n) : all(0.0f);
        c->d_decay[i] = all(0.0f);
    });
    rerun(a, c, from, past, read_only, e, n, n_state);
    fetch_states(a, g, s, before, after, e + LANES);
    gate_adjoint(a, g, c, from, past, e, n);
    for (int64_t t = past - 1; t >= from; t--) {
        const int64_t r = t - from;
        fetch_row(a, g, t, e + LANES);
        const float *B = a->B + t * a->B_stride, *C = a->C + t * a->C_stride;
        const vec *h = c->states + r * n_state, *factor = c->factors + r * n_state;
        if (keep_past && a->keep[keep_past - 1] == t) {
            keep_past--;
            if (g->kept)
                for (int i = 0; i < n_state; i++)
                    c->d_state[i] += load(g->kept + keep_past * plane + i * a->width + e, n);
        }
        vec d_y = c->d_y[r], d_write = all(0.0f), d_power = all(0.0f);
        const int written = !(read_only && r == 0);
        FOR_STATES(i, n_state, {
            c->for_C[i] = d_y * h[i + n_state];
            vec d = fma_(d_y, all(C[i]), c->d_state[i]);
            if (written) {
                c->for_B[i] = d * c->write[r];
                d_write = fma_(d, all(B[i]), d_write);
                d = d * factor[i];
                vec exponent = d * h[i];
                d_power = fma_(exponent, load(a->decay + i * a->width + e, n), d_power);
                c->d_decay[i] = fma_(exponent, c->delta[r], c->d_decay[i]);
            }
            c->d_state[i] = d;
        });
        add_sums(g->C + (slab + t) * n_state, c->for_C, n_state);
        if (written) add_sums(g->B + (slab + t) * n_state, c->for_B, n_state);
        store(g->x + t * a->width + e, fma_(d_write, c->delta[r], c->d_x[r]), n);
        vec d_delta = fma_(d_write, c->x[r], d_power * all(LN_2));
        if (a->softplus)
            d_delta = d_delta * sigmoid_(load(a->delta + t * a->delta_stride + e, n));
        store(g->delta + t * a->width + e, d_delta, n);
    }
    FOR_STATES(i, n_state, {
        float *total = g->decay + i * a->width + e;
        store(total, fma_(c->d_decay[i], all(LN_2), load(total, n)), n);
        store(g->h_start + s * plane + i * a->width + e, c->d_state[i], n);
    });
}

INLINE void adjoint_all(const Scan *a, const Gradients *g, Chunk *c, int64_t first, int64_t past,
                        int n_state) {
    const int64_t plane = a->width * n_state;
    int64_t keep_past = a->n_keep, checkpoint = 0;
    for (int64_t s = 0; s < a->n_segments; s++) checkpoint += checkpoints_in(a, s);
    for (int64_t s = a->n_segments - 1; s >= 0; s--)
        for (int64_t chunk = checkpoints_in(a, s); chunk >= 0; chunk--) {
            const int64_t from = a->starts[s] + chunk * CHUNK, last = a->starts[s + 1];
            const int64_t until = from + CHUNK < last ? from + CHUNK : last;
            const float *before =
                chunk ? a->checkpoints + --checkpoint * plane : a->h_start + s * a->h_stride;
            const int read_only = !chunk && a->given && a->given[s];
            FOR_CHANNELS_(first, past, !UNROLLED(n_state), e, n,
                         adjoint_lanes(a, g, c, s, from, until, read_only, keep_past, before, e, n,
                                       n_state));
            while (keep_past && a->keep[keep_past - 1] >= from) keep_past--;
        }
}

/* `a` as in the forward run, with its checkpoints; `first` is a multiple of SLAB. */
EXPORT int mt_scan_backward(const Scan *a, const Gradients *g, int64_t first, int64_t past) {
    const int64_t n_state = a->n_state;
    vec *vectors = scratch(CHUNK_VECTORS(n_state));
    if (!vectors) return 3;
    Chunk c;
    c.states = vectors;
    c.factors = c.states + (CHUNK + 1) * n_state;
    c.d_state = c.factors + CHUNK * n_state;
    c.d_decay = c.d_state + n_state;
    c.for_B = c.d_decay + n_state;
    c.for_C = c.for_B + n_state;
    const int64_t rest = unrolled_past(a, first, past);
    if (rest > first) adjoint_all(a, g, &c, first, rest, 16);
    if (rest < past) adjoint_all(a, g, &c, rest, past, (int)n_state);
    free(vectors);
    return 0;
}
