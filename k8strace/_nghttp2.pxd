"""libnghttp2, as much of it as the sessions use; 1.43 and later have all of it."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "nghttp2/nghttp2.h":
    enum:
        DATA "NGHTTP2_DATA"
        HEADERS "NGHTTP2_HEADERS"
        PRIORITY "NGHTTP2_PRIORITY"
        RST_STREAM "NGHTTP2_RST_STREAM"
        SETTINGS "NGHTTP2_SETTINGS"
        PING "NGHTTP2_PING"
        GOAWAY "NGHTTP2_GOAWAY"
        WINDOW_UPDATE "NGHTTP2_WINDOW_UPDATE"
        CONTINUATION "NGHTTP2_CONTINUATION"

        FLAG_NONE "NGHTTP2_FLAG_NONE"
        FLAG_END_STREAM "NGHTTP2_FLAG_END_STREAM"
        FLAG_ACK "NGHTTP2_FLAG_ACK"

        HCAT_REQUEST "NGHTTP2_HCAT_REQUEST"

        NV_FLAG_NO_COPY_NAME "NGHTTP2_NV_FLAG_NO_COPY_NAME"
        NV_FLAG_NO_COPY_VALUE "NGHTTP2_NV_FLAG_NO_COPY_VALUE"

        DATA_FLAG_EOF "NGHTTP2_DATA_FLAG_EOF"
        DATA_FLAG_NO_END_STREAM "NGHTTP2_DATA_FLAG_NO_END_STREAM"
        DATA_FLAG_NO_COPY "NGHTTP2_DATA_FLAG_NO_COPY"

        SETTINGS_ENABLE_PUSH "NGHTTP2_SETTINGS_ENABLE_PUSH"
        SETTINGS_MAX_CONCURRENT_STREAMS "NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS"
        SETTINGS_INITIAL_WINDOW_SIZE "NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE"
        SETTINGS_MAX_HEADER_LIST_SIZE "NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE"

        NO_ERROR "NGHTTP2_NO_ERROR"
        PROTOCOL_ERROR "NGHTTP2_PROTOCOL_ERROR"
        REFUSED_STREAM "NGHTTP2_REFUSED_STREAM"
        CANCEL "NGHTTP2_CANCEL"
        ENHANCE_YOUR_CALM "NGHTTP2_ENHANCE_YOUR_CALM"

        ERR_CALLBACK_FAILURE "NGHTTP2_ERR_CALLBACK_FAILURE"
        ERR_PAUSE "NGHTTP2_ERR_PAUSE"
        ERR_TEMPORAL_CALLBACK_FAILURE "NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE"

    ctypedef struct session "nghttp2_session"
    ctypedef struct session_callbacks "nghttp2_session_callbacks"
    ctypedef struct option "nghttp2_option"
    ctypedef struct priority_spec "nghttp2_priority_spec"
    ctypedef struct nv "nghttp2_nv":
        uint8_t *name
        uint8_t *value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct settings_entry "nghttp2_settings_entry":
        int32_t settings_id
        uint32_t value
    ctypedef struct frame_hd "nghttp2_frame_hd":
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct headers "nghttp2_headers":
        int cat
    ctypedef struct ping "nghttp2_ping":
        uint8_t[8] opaque_data
    ctypedef struct goaway "nghttp2_goaway":
        int32_t last_stream_id
        uint32_t error_code
        uint8_t *opaque_data
        size_t opaque_data_len
    ctypedef union frame "nghttp2_frame":
        frame_hd hd
        headers headers
        ping ping
        goaway goaway
    ctypedef union data_source "nghttp2_data_source":
        void *ptr

    ctypedef ssize_t (*data_source_read_callback)(
        session *, int32_t, uint8_t *, size_t, uint32_t *, data_source *, void *
    ) noexcept
    ctypedef struct data_provider "nghttp2_data_provider":
        data_source source
        data_source_read_callback read_callback
    ctypedef int (*on_frame_callback)(
        session *, const frame *, void *
    ) noexcept
    ctypedef int (*on_frame_not_send_callback)(
        session *, const frame *, int, void *
    ) noexcept
    ctypedef int (*on_invalid_frame_callback)(
        session *, const frame *, int, void *
    ) noexcept
    ctypedef int (*on_begin_frame_callback)(
        session *, const frame_hd *, void *
    ) noexcept
    ctypedef int (*on_header_callback)(
        session *, const frame *, const uint8_t *, size_t, const uint8_t *, size_t,
        uint8_t, void *
    ) noexcept
    ctypedef int (*on_data_chunk_recv_callback)(
        session *, uint8_t, int32_t, const uint8_t *, size_t, void *
    ) noexcept
    ctypedef int (*on_stream_close_callback)(
        session *, int32_t, uint32_t, void *
    ) noexcept
    ctypedef int (*send_data_callback)(
        session *, frame *, const uint8_t *, size_t, data_source *, void *
    ) noexcept

    int session_callbacks_new "nghttp2_session_callbacks_new"(session_callbacks **)
    void set_on_begin_frame "nghttp2_session_callbacks_set_on_begin_frame_callback"(
        session_callbacks *, on_begin_frame_callback
    )
    void set_on_begin_headers "nghttp2_session_callbacks_set_on_begin_headers_callback"(
        session_callbacks *, on_frame_callback
    )
    void set_on_header "nghttp2_session_callbacks_set_on_header_callback"(
        session_callbacks *, on_header_callback
    )
    void set_on_frame_recv "nghttp2_session_callbacks_set_on_frame_recv_callback"(
        session_callbacks *, on_frame_callback
    )
    void set_on_frame_send "nghttp2_session_callbacks_set_on_frame_send_callback"(
        session_callbacks *, on_frame_callback
    )
    void set_on_frame_not_send "nghttp2_session_callbacks_set_on_frame_not_send_callback"(
        session_callbacks *, on_frame_not_send_callback
    )
    void set_on_data_chunk_recv "nghttp2_session_callbacks_set_on_data_chunk_recv_callback"(
        session_callbacks *, on_data_chunk_recv_callback
    )
    void set_on_stream_close "nghttp2_session_callbacks_set_on_stream_close_callback"(
        session_callbacks *, on_stream_close_callback
    )
    void set_send_data "nghttp2_session_callbacks_set_send_data_callback"(
        session_callbacks *, send_data_callback
    )

    void set_on_invalid "nghttp2_session_callbacks_set_on_invalid_frame_recv_callback"(
        session_callbacks *, on_invalid_frame_callback
    )

    int option_new "nghttp2_option_new"(option **)
    void option_set_no_auto_window_update "nghttp2_option_set_no_auto_window_update"(
        option *, int
    )

    int session_server_new2 "nghttp2_session_server_new2"(
        session **, const session_callbacks *, void *,
        const option *,
    )
    int session_client_new2 "nghttp2_session_client_new2"(
        session **, const session_callbacks *, void *,
        const option *,
    )
    void session_del "nghttp2_session_del"(session *)
    ssize_t session_mem_recv "nghttp2_session_mem_recv"(session *, const uint8_t *, size_t)
    ssize_t session_mem_send "nghttp2_session_mem_send"(session *, const uint8_t **)
    int session_want_read "nghttp2_session_want_read"(session *)
    int session_want_write "nghttp2_session_want_write"(session *)
    int session_consume_connection "nghttp2_session_consume_connection"(session *, size_t)
    int session_set_local_window_size "nghttp2_session_set_local_window_size"(
        session *, uint8_t, int32_t, int32_t
    )
    int session_set_stream_user_data "nghttp2_session_set_stream_user_data"(
        session *, int32_t, void *
    )
    void *session_get_stream_user_data "nghttp2_session_get_stream_user_data"(
        session *, int32_t
    )
    int session_terminate_session "nghttp2_session_terminate_session"(session *, uint32_t)
    int32_t session_get_last_proc_stream_id "nghttp2_session_get_last_proc_stream_id"(
        session *
    )
    int session_set_next_stream_id "nghttp2_session_set_next_stream_id"(session *, int32_t)
    int submit_shutdown_notice "nghttp2_submit_shutdown_notice"(session *)
    int submit_settings "nghttp2_submit_settings"(
        session *, uint8_t, const settings_entry *, size_t
    )
    int submit_ping "nghttp2_submit_ping"(session *, uint8_t, const uint8_t *)
    int submit_goaway "nghttp2_submit_goaway"(
        session *, uint8_t, int32_t, uint32_t, const uint8_t *, size_t
    )
    int submit_rst_stream "nghttp2_submit_rst_stream"(session *, uint8_t, int32_t, uint32_t)
    int32_t submit_request "nghttp2_submit_request"(
        session *, const priority_spec *, const nv *, size_t,
        const data_provider *, void *,
    )
    int submit_response "nghttp2_submit_response"(
        session *, int32_t, const nv *, size_t,
        const data_provider *,
    )
    int submit_trailer "nghttp2_submit_trailer"(session *, int32_t, const nv *, size_t)
    const char *strerror "nghttp2_strerror"(int)

cdef extern from *:
    """
    /* From 1.50.0 on, space around a header's value ends the stream unless this is said. */
    #if NGHTTP2_VERSION_NUM >= 0x013200
    #define k8strace_take_outer_space(options) \\
        nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(options, 1)
    #else
    #define k8strace_take_outer_space(options) ((void)(options))
    #endif
    """
    void take_outer_space "k8strace_take_outer_space"(option *)
