#include <stdio.h>

int main(void)
{
    puts("warren " WARREN_VERSION);
    return 0;
}
