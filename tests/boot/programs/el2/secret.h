// The upper half of each secret word.
#ifndef SECRET_H
#define SECRET_H

#define SECRET_TAG 0x5ec2e7a5ull

#endif
