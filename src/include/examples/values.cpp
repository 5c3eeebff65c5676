// Values as std::string, and failures as exceptions.
//
//     c++ -std=c++17 values.cpp $(pkg-config --cflags mapipc) -o values && ./values greeting
#include <iostream>
#include <mapipc.h>
#include <optional>
#include <stdexcept>
#include <string>

// None when the key is not set.
static std::optional<std::string> get(const std::string &key) {
    std::string value(256, '\0');
    for (;;) {
        size_t size = 0;
        const int error = mapipc_get(nullptr, key.c_str(), value.data(), value.size(), &size);
        if (error == MAPIPC_NOT_SET)
            return std::nullopt;
        if (error && error != MAPIPC_NO_ROOM)
            throw std::runtime_error(mapipc_strerror(error));
        value.resize(error ? size + 1 : size);
        if (!error)
            return value;
    }
}

int main(int count, char **arguments) {
    try {
        std::cout << get(count > 1 ? arguments[1] : "greeting").value_or("(not set)") << '\n';
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
