/*
 * Diffie-Hellman on the curve P-256.
 *
 * Numbers modulo p are four words, the lowest first, in Montgomery's form: x is stored as x * 2^256. Points are
 * (X : Y : Z), and the formula that adds them has no exceptions (Renes, Costello, Batina: "Complete addition formulas
 * for prime order elliptic curves", algorithm 4), so it also doubles. Spec: SP 800-186; SP 800-56A.
 */
#include "crypto.h"

typedef unsigned __int128 wide;

struct number {
    uint64_t words[4];
};
struct point {
    struct number x, y, z;
};

static const struct number modulus = {{~0ull, 0xffffffff, 0, 0xffffffff00000001}};
static const struct number one = {{1, 0, 0, 0}};
static const struct number curve_b = {{0x3bce3c3e27d2604b, 0x651d06b0cc53b0f6, 0xb3ebbd55769886bc, 0x5ac635d8aa3a93e7}};
static const struct number base_x = {{0xf4a13945d898c296, 0x77037d812deb33a0, 0xf8bce6e563a440f2, 0x6b17d1f2e12c4247}};
static const struct number base_y = {{0xcbb6406837bf51f5, 0x2bce33576b315ece, 0x8ee7eb4a7c0f9e16, 0x4fe342e2fe1a7f9b}};

/* ---- numbers modulo p ---- */

/* returns `yes` if all bits of the mask are set, `no` if none is. */
static struct number choose(uint64_t mask, struct number yes, struct number no) {
    for (unsigned n = 0; n < 4; n++)
        no.words[n] ^= mask & (yes.words[n] ^ no.words[n]);
    return no;
}

/* returns a - b, and sets the mask if that is negative. */
static struct number difference(struct number a, struct number b, uint64_t *is_negative) {
    uint64_t borrow = 0;
    for (unsigned n = 0; n < 4; n++) {
        wide value = (wide)a.words[n] - b.words[n] - borrow;
        a.words[n] = (uint64_t)value;
        borrow = (uint64_t)(value >> 64) & 1;
    }
    *is_negative = -borrow;
    return a;
}

/* returns a number that is less than 2p, with a fifth word, modulo p. */
static struct number reduce(struct number a, uint64_t fifth) {
    uint64_t is_negative;
    struct number less = difference(a, modulus, &is_negative);
    return choose(is_negative & (fifth - 1), a, less);
}

static struct number add(struct number a, struct number b) {
    wide carry = 0;
    for (unsigned n = 0; n < 4; n++) {
        carry += (wide)a.words[n] + b.words[n];
        a.words[n] = (uint64_t)carry;
        carry >>= 64;
    }
    return reduce(a, (uint64_t)carry);
}

static struct number subtract(struct number a, struct number b) {
    uint64_t is_negative;
    wide carry = 0;
    a = difference(a, b, &is_negative);
    for (unsigned n = 0; n < 4; n++) {
        carry += (wide)a.words[n] + (modulus.words[n] & is_negative);
        a.words[n] = (uint64_t)carry;
        carry >>= 64;
    }
    return a;
}

/* Montgomery's product, a * b / 2^256; p is -1 modulo 2^64, so the lowest word is the factor that clears itself. */
static struct number multiply(struct number a, struct number b) {
    uint64_t t[6] = {0};
    for (unsigned n = 0; n < 4; n++) {
        wide carry = 0;
        for (unsigned m = 0; m < 4; m++) {
            carry += (wide)a.words[m] * b.words[n] + t[m];
            t[m] = (uint64_t)carry;
            carry >>= 64;
        }
        carry += t[4];
        t[4] = (uint64_t)carry;
        t[5] = (uint64_t)(carry >> 64);
        uint64_t factor = t[0];
        carry = 0;
        for (unsigned m = 0; m < 4; m++) {
            carry += (wide)factor * modulus.words[m] + t[m];
            if (m)
                t[m - 1] = (uint64_t)carry;
            carry >>= 64;
        }
        carry += t[4];
        t[3] = (uint64_t)carry;
        t[4] = t[5] + (uint64_t)(carry >> 64);
    }
    struct number result = {{t[0], t[1], t[2], t[3]}};
    return reduce(result, t[4]);
}

static struct number enter(struct number a) {
    for (unsigned n = 0; n < 256; n++)
        a = add(a, a);
    return a;
}

static struct number leave(struct number a) { return multiply(a, one); }

static struct number triple(struct number a) { return add(add(a, a), a); }

static bool is_zero(struct number a) { return (a.words[0] | a.words[1] | a.words[2] | a.words[3]) == 0; }

/* The power p - 2, which is the inverse; 0 for 0. */
static struct number invert(struct number a) {
    struct number power = enter(one);
    for (unsigned bit = 256; bit-- > 0;) {
        power = multiply(power, power);
        uint64_t word = modulus.words[bit / 64] - (bit < 64 ? 2 : 0);
        if (word >> bit % 64 & 1) /* p is no secret */
            power = multiply(power, a);
    }
    return power;
}

static struct number load(const uint8_t *data) {
    struct number a = {{0}};
    for (unsigned n = 0; n < P256_SIZE; n++)
        a.words[3 - n / 8] = a.words[3 - n / 8] << 8 | data[n];
    return a;
}

static void store(uint8_t *data, struct number a) {
    for (unsigned n = 0; n < P256_SIZE; n++)
        data[n] = (uint8_t)(a.words[3 - n / 8] >> 8 * (7 - n % 8));
}

/* ---- points ---- */

static struct point sum(struct point p, struct point q, struct number b) {
    struct number xx = multiply(p.x, q.x), yy = multiply(p.y, q.y), zz = multiply(p.z, q.z);
    struct number xy = subtract(multiply(add(p.x, p.y), add(q.x, q.y)), add(xx, yy));
    struct number yz = subtract(multiply(add(p.y, p.z), add(q.y, q.z)), add(yy, zz));
    struct number xz = subtract(multiply(add(p.x, p.z), add(q.x, q.z)), add(xx, zz));
    struct number t = triple(subtract(xz, multiply(b, zz)));
    struct number minus = subtract(yy, t), plus = add(yy, t), zz3 = triple(zz);
    struct number u = triple(subtract(subtract(multiply(b, xz), zz3), xx)), v = subtract(triple(xx), zz3);
    return (struct point){
        .x = subtract(multiply(plus, xy), multiply(yz, u)),
        .y = add(multiply(plus, minus), multiply(v, u)),
        .z = add(multiply(yz, minus), multiply(xy, v)),
    };
}

/* returns a multiple of a point: each bit costs the same. */
static struct point multiple(const uint8_t *scalar, struct point p) {
    struct number b = enter(curve_b);
    struct point result = {.y = enter(one)}; /* the neutral element */
    for (unsigned bit = 0; bit < 256; bit++) {
        uint64_t mask = -(uint64_t)(scalar[bit / 8] >> (7 - bit % 8) & 1);
        result = sum(result, result, b);
        struct point more = sum(result, p, b);
        result.x = choose(mask, more.x, result.x);
        result.y = choose(mask, more.y, result.y);
        result.z = choose(mask, more.z, result.z);
    }
    return result;
}

static bool is_on_curve(struct point p) { /* y^2 = x^3 - 3x + b */
    struct number cube = multiply(multiply(p.x, p.x), p.x);
    struct number right = add(subtract(cube, triple(p.x)), enter(curve_b));
    return is_zero(subtract(multiply(p.y, p.y), right));
}

void p256_public(const uint8_t *private, uint8_t *x, uint8_t *y) {
    struct point base = {enter(base_x), enter(base_y), enter(one)};
    struct point public = multiple(private, base);
    struct number inverse = invert(public.z);
    store(x, leave(multiply(public.x, inverse)));
    store(y, leave(multiply(public.y, inverse)));
}

bool p256_agree(const uint8_t *private, const uint8_t *x, const uint8_t *y, uint8_t *shared) {
    struct number theirs[] = {load(x), load(y)};
    uint64_t is_less[2];
    for (unsigned n = 0; n < 2; n++)
        difference(theirs[n], modulus, &is_less[n]);
    struct point point = {enter(theirs[0]), enter(theirs[1]), enter(one)};
    if (!is_less[0] || !is_less[1] || !is_on_curve(point))
        return false;
    point = multiple(private, point);
    store(shared, leave(multiply(point.x, invert(point.z))));
    return !is_zero(point.z);
}
